"""Wrappers for what fires no callbacks: embeddings, rerankers and other document compressors."""

from langchain_vluna.wrappers.compressor import GatedCompressor
from langchain_vluna.wrappers.embeddings import GatedEmbeddings

__all__ = ["GatedCompressor", "GatedEmbeddings"]
