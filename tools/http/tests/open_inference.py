"""The digits by tritonclient, a client of the Open Inference Protocol: python3 open_inference.py ADDRESS IMAGES LABELS

IMAGES has a JSON list of 64 pixels a line, LABELS the digit that the service is to read in each.
"""

import json
import sys

import numpy as np
import tritonclient.http as client

address, images, labels = sys.argv[1:]
with open(images) as file:
    images = np.array([json.loads(line) for line in file], dtype=np.uint8)
with open(labels) as file:
    labels = np.array([int(line) for line in file], dtype=np.uint8)

server = client.InferenceServerClient(address)
assert server.is_server_live() and server.is_server_ready() and server.is_model_ready("digits")
metadata = server.get_model_metadata("digits")
assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 64]}], metadata


def infer(images, binary_in=True, binary_out=None):
    tensor = client.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary_in)
    outputs = None
    if binary_out is not None:
        outputs = [client.InferRequestedOutput("digit", binary_data=binary_out)]
    return server.infer("digits", [tensor], outputs=outputs, request_id="7").as_numpy("digit")


for count in (1, 200):
    for options in ({}, {"binary_in": False, "binary_out": False}, {"binary_in": False, "binary_out": True}):
        seen = infer(images[:count], **options)
        assert (seen == labels[:count]).all(), (count, options, seen)


def refused(status, text, images, model="digits"):
    tensor = client.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    try:
        server.infer(model, [tensor])
    except client.InferenceServerException as error:
        assert str(error.status()) == str(status) and text in error.message(), error
    else:
        raise AssertionError(f"not refused: {text}")


refused(400, "has the shape [rows, [64]]", images[:1, :63].copy())
refused(400, "a pixel is 0 to 16, this one 17", np.full((1, 64), 17, dtype=np.uint8))
refused(413, "more than 65536 bytes", np.zeros((2000, 64), dtype=np.uint8))
assert (infer(images[:8]) == labels[:8]).all()
print("tritonclient has read digits, as JSON and as bytes")
