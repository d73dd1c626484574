"""What model files hold, looked through before PyTorch, ONNX and HDF5 read them."""
