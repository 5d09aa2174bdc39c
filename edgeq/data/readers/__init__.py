"""Files become representative data: indexable, cut into parts by slices, one file read at a time.

Knows file formats, nothing of models. What reads images and sound is imported when it is needed.
"""

from edgeq.data.readers.file_data import FileData
from edgeq.data.readers.image_layout import ImageLayout
from edgeq.data.readers.images import ImageFiles
from edgeq.data.readers.opening import open_data, open_with_settings
from edgeq.data.readers.settings import parse_setting, read_settings

__all__ = [
    "FileData",
    "ImageFiles",
    "ImageLayout",
    "open_data",
    "open_with_settings",
    "parse_setting",
    "read_settings",
]
