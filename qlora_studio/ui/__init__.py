"""What a person sees: the window, its pages and widgets, and which signal goes where."""
