"""Operations of the fused layers as GPU kernels in Triton's language, the compiler from OpenAI.

`layer_operations` has the operations and their PyTorch path, `triton_kernels` the kernels,
`gpu_operations` calls them through the `launcher`, and `probe` compares them with PyTorch on the
device. `choose_operations`, outside of this folder, decides whether a tower uses them.
"""
