"""What Triton can't do fast enough, in CUDA: compiled where it runs, by the NVRTC that torch brings."""
