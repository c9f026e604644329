"""Files of small films for tests: pictures as bytes, and DICOMs."""

from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

GREY = np.add.outer(np.arange(0, 120, 3), np.arange(0, 90, 3)).astype(np.uint8)  # (40, 30)


def encoded(image, extension="PNG", **options):
    """The bytes of a file of a picture."""
    buffer = BytesIO()
    image.save(buffer, extension, **options)
    return buffer.getvalue()


def dicom(path, pixels=GREY, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian, **tags):
    """Write a minimal DICOM; tags set to None are left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = Dataset()
    dataset.file_meta = meta
    bits = pixels.dtype.itemsize * 8
    values = {"SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": "1.2.3"}
    values |= {"Modality": "DX", "PhotometricInterpretation": photometric}
    values |= {"Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1}
    values |= {"BitsAllocated": bits, "BitsStored": bits, "PixelData": pixels.tobytes()}
    values |= {"PixelRepresentation": int(pixels.dtype.kind == "i")}
    if pixels.ndim == 3:
        values |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    values |= tags
    values.setdefault("HighBit", values["BitsStored"] - 1)
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path
