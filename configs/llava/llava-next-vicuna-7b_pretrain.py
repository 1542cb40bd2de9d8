# LLaVA-NeXT's first stage (llava-vl.github.io, January 2024) is LLaVA-1.5's: whole images, the projector alone.
# The second one, llava-next-vicuna-7b_finetune.py, reads an image in tiles, each row of them ended by `newline`.
_base_ = ["./llava-v1.5-7b_pretrain.py"]

model = dict(language=dict(newline=True, max_tokens=4096))
