"""Make `data/parity.safetensors` by running upstream's own code, and compare ours with it live.

    python tests/make_parity.py CHECKOUT_OF_mv-lab_InstructIR [TEXT_ENCODER_FOLDER]

Weights and inputs are drawn by name and seed, so only upstream's outputs are stored.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
from tiny_model import DATA, fill

from instructir_core.model import InstructIR, NetworkConfig
from instructir_core.text import InstructionHead, TransformersEncoder

CASES = {
    "small_batch_odd": (NetworkConfig(8, (1, 2), 1, (2, 1)), (2, 3, 37, 53)),
    "one_pixel": (NetworkConfig(8, (1, 2), 1, (2, 1)), (1, 3, 1, 1)),
    "full_7d": (NetworkConfig(), (1, 3, 45, 50)),
}
"""Network and input shape of each stored case."""


def inputs(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and unit embeddings of a case."""
    rng = np.random.RandomState(7)
    image = torch.from_numpy(rng.random_sample(shape).astype(np.float32))
    embedding = torch.from_numpy(rng.normal(size=(shape[0], 256)).astype(np.float32))
    return image, torch.nn.functional.normalize(embedding, dim=-1)


def sentence_vectors() -> torch.Tensor:
    """(5, 384) unit vectors in place of an encoder's output."""
    rng = np.random.RandomState(8)
    vectors = torch.from_numpy(rng.normal(size=(5, 384)).astype(np.float32))
    return torch.nn.functional.normalize(vectors, dim=-1)


def main(upstream: Path, encoder: Path | None) -> None:
    sys.path.insert(0, str(upstream))
    from models.instructir import InstructIR as Upstream
    from text.models import LanguageModel, LMHead

    stored = {}
    with torch.no_grad():
        for name, (config, shape) in CASES.items():
            theirs = fill(
                Upstream(
                    width=config.width,
                    enc_blk_nums=list(config.encoder_blocks),
                    middle_blk_num=config.middle_blocks,
                    dec_blk_nums=list(config.decoder_blocks),
                    txtdim=256,
                )
            )
            image, embedding = inputs(shape)
            stored[name] = theirs(image, embedding).contiguous()
            ours = fill(InstructIR(config))(image, embedding)
            print(
                f"{name}: max abs error {(ours - stored[name]).abs().max():.2e}, "
                f"largest value {ours.abs().max():.2f}"
            )
        head = fill(LMHead(384, 256, 7))
        stored["embedding"], stored["logits"] = head(sentence_vectors())
        ours_head = fill(InstructionHead(384, 256, 7))
        embedding, logits = ours_head(sentence_vectors())
        print(f"head: embedding {(embedding - stored['embedding']).abs().max():.2e}")
        print(f"head: logits {(logits - stored['logits']).abs().max():.2e}")
        if encoder is not None:
            texts = ["remove the rain", "it is too dark, please brighten my photo a lot", "fix it"]
            ours_text = TransformersEncoder(encoder).encode(texts)
            language = LanguageModel(str(encoder))
            theirs_text = torch.cat([torch.as_tensor(language(t)).reshape(1, -1) for t in texts])
            mine, other = ours_head(ours_text)[0], head(theirs_text.float().cpu())[0]
            print(f"sentence to embedding: max abs error {(mine - other).abs().max():.2e}")
    save_file(stored, DATA / "parity.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
