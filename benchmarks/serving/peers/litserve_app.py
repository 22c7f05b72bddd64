"""LitServe as its pages advise: batches of up to eight, two workers, decoding in the workers."""

from __future__ import annotations

import sys

import litserve
import model
import numpy as np
from PIL import Image


class Classifier(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002 - what LitServe calls
        self.session = model.session()

    def decode_request(self, request):
        return model.prepared(Image.open(request["image"].file))

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, batch):
        return self.session.run(["logits"], {"input": batch})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"labels": model.ranked(output)}


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.005, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
