"""FastAPI with a plain function, which runs in its thread pool. Run by uvicorn with two processes.

Prepared by simplejpeg and OpenCV: the fastest that a user of it would write.
"""

from __future__ import annotations

import cv2
import model
import numpy as np
import simplejpeg
from fastapi import FastAPI, UploadFile

app = FastAPI()
session = model.session()
cv2.setNumThreads(1)


@app.post("/classify")
def classify(image: UploadFile):
    pixels = simplejpeg.decode_jpeg(image.file.read(), fastdct=True, fastupsample=True)
    logits = session.run(["logits"], {"input": prepared(pixels)})[0][0]
    return {"labels": model.ranked(logits)}


def prepared(pixels: np.ndarray) -> np.ndarray:
    """float32 (1, 3, 224, 224): the middle, resized once."""
    height, width = pixels.shape[:2]
    side = min(height, width) * model.SIDE // model.RESIZED
    top, left = (height - side) // 2, (width - side) // 2
    middle = pixels[top : top + side, left : left + side]
    small = cv2.resize(middle, (model.SIDE, model.SIDE), interpolation=cv2.INTER_AREA)
    return cv2.dnn.blobFromImage(small, 1 / 128, mean=(127, 127, 127))
