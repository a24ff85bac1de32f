"""The process that holds the device: it loads, trains, evaluates, chats and exports. Only here is torch."""
