"""What model files hold, looked through before PyTorch, ONNX and HDF5 read them.

What was tried and why it is as it is: docs/notes/files.md.
"""
