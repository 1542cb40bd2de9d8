"""Captions in the COCO format.

{"images": [{"id": 1, "file_name": "000001.jpg"}, ...],
 "annotations": [{"image_id": 1, "caption": "a red ball"}, ...]}
"""

import json
import os
from typing import Any

from tove.data.image_dataset import ImageDataset
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["CocoCaptions"]


@DATASETS.register_module()
class CocoCaptions(ImageDataset):
    """Images with captions: in training one sample per caption, in evaluation one per image.

    A sample of evaluation has all captions of its image as `references`. Images without a caption
    are left out.

    Args:
        prompt: text that the language model is given before the caption.
        **options: arguments of `ImageDataset`.
    """

    def __init__(
        self,
        *,
        prompt: str = "a picture of",
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.prompt = prompt
        super().__init__(**options)

    def read_samples(self) -> list[dict[str, Any]]:
        """Join images and annotations by image id, in the order of the images."""
        files, captions = self._read()
        samples = []
        for image_id, file_name in files.items():
            references = captions.get(image_id, [])
            for target in references[:1] if self.test_mode else references:
                samples.append(
                    dict(
                        task="caption",
                        image_path=os.path.join(self.data_prefix["img"], file_name),
                        source_id=image_id,
                        prompt=self.prompt,
                        target=target,
                        references=references,
                    )
                )
        return samples

    def _read(self) -> tuple[dict[Any, str], dict[Any, list[str]]]:
        path = self._annotation_path()
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            files = {image["id"]: image["file_name"] for image in content["images"]}
            captions: dict[Any, list[str]] = {}
            for annotation in content["annotations"]:
                text = " ".join(annotation["caption"].split())
                if text:
                    captions.setdefault(annotation["image_id"], []).append(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path!r} is not a COCO captions file ({type(error).__name__}: {error}); it needs "
                "'images' with id and file_name, and 'annotations' with image_id and caption."
            ) from error
        return files, captions
