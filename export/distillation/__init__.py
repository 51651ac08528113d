"""Knowledge distillation on `keras.distillation`: a large network teaches a small one."""
