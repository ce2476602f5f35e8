"""How the memory of a GPU is divided. Independent of torch."""

from dataclasses import dataclass

# A launch of one graph takes memory of the driver, besides that of its pool.
_BYTES_OF_A_GRAPH = 8 * 2**20
# Until they are profiled: activations, workspaces, graphs.
_USUAL_ACTIVATIONS = 3 * 2**30
_TOKENS_OF_A_SEQUENCE = 4096
_LEAST_SEQS, _MOST_SEQS = 8, 256


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Bytes of a GPU's memory and who gets them; the KV cache has what is left.

    Attributes:
        total: of the GPU.
        utilization: share of ``total`` to use, including that of other processes.
        others: used by other processes, and by the driver for this one.
        peak: of weights and activations: the most that the allocator reserved in the largest step,
            including the encoder's largest image and the sampler.
        image_cache: bound on the embeddings of cached images, and of those that requests hold.
        grids: bound on the encoder's position embeddings of known image sizes.
        graphs: of the CUDA graphs.
    """

    total: int
    utilization: float
    others: int
    peak: int
    image_cache: int = 0
    grids: int = 0
    graphs: int = 0

    @property
    def kv_cache(self) -> int:
        """What is left; negative if all of it does not fit."""
        usable = int(self.total * self.utilization)
        return usable - self.others - self.peak - self.image_cache - self.grids - self.graphs

    def __str__(self) -> str:
        """For the log and for errors."""
        names = ("total", "others", "peak", "image_cache", "grids", "graphs", "kv_cache")
        parts = [f"{name}={getattr(self, name) / 2**20:.0f}MiB" for name in names]
        return " ".join([*parts, f"utilization={self.utilization}"])


def graph_bytes(num_graphs: int, largest_step: int) -> int:
    """Memory of CUDA graphs.

    Args:
        largest_step: bytes of activations of the largest one; the others reuse them.
    """
    return num_graphs * _BYTES_OF_A_GRAPH + largest_step


def usual_max_num_seqs(memory: int, kv_bytes_per_token: int) -> int:
    """The default maximum number of running requests: a power of two, 8 to 256.

    For 4,096 tokens of KV cache each: a picture or two, a question and an answer. Longer requests
    are fewer at a time anyway, as they wait for free blocks.

    Args:
        memory: bytes left by the weights.
    """
    tokens = max(0, memory - _USUAL_ACTIVATIONS) // kv_bytes_per_token
    seqs = max(1, tokens // _TOKENS_OF_A_SEQUENCE)
    return min(_MOST_SEQS, max(_LEAST_SEQS, 1 << seqs.bit_length() - 1))
