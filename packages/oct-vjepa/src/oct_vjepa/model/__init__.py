"""The networks: patches and positions, attention and blocks, encoder and predictor, their weights.

`configuration` has the sizes, `weights` reads and writes a folder of safetensors, `pooling` makes
one vector of a volume's tokens, `decay` says which parameters weight decay spares. Everyone may
import this wing; it never knows how it is trained, masked or judged.
"""
