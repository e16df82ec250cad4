## the default model and its card
modelsdir = $(pkgdatadir)/models
dist_models_DATA = %D%/latent-mini.q8_0.gguf %D%/README.md

## one small model of each mechanism: for comparisons and tests, not installed
EXTRA_DIST += %D%/zoo
