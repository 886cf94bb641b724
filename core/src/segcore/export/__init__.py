"""Networks for other runtimes: a torch.export program or an ONNX file of any image size, checked when it is made."""
