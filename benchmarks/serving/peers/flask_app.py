"""The classic tutorial: Flask, a temporary file for each upload, Pillow. Run by gunicorn with two processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import model
from flask import Flask, jsonify, request
from PIL import Image

app = Flask(__name__)
session = model.session()


@app.post("/classify")
def classify():
    upload = request.files["image"]
    with tempfile.NamedTemporaryFile(suffix=".jpg", delete=False) as file:
        upload.save(file)
    try:
        with Image.open(file.name) as picture:
            tensor = model.prepared(picture)
    finally:
        Path(file.name).unlink()
    logits = session.run(["logits"], {"input": tensor[None]})[0][0]
    return jsonify(labels=model.ranked(logits))
