"""The generative side: behaviour diffusion model, energy model, guided sampler. Knows no RL."""
