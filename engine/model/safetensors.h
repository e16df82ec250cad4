/* engine/model/safetensors.h - the header of one safetensors file, parsed over its map. */
#ifndef LATENT_ENGINE_MODEL_SAFETENSORS_H
#define LATENT_ENGINE_MODEL_SAFETENSORS_H

#include "base/err.h"
#include "engine/model/map.h"
#include "engine/model/tix.h"

/* The largest shard in use has a header of about 8 MB (all experts of one model in one file). */
#define SAFETENSORS_MAX_HEADER_BYTES (32u << 20)

/* Appends the file's tensors to x (tix__seal is the caller's). Shapes are reversed into ne order.
 * Element types that this build does not know, and tensors of more dimensions than a model of ours
 * uses, are kept without data. */
int safetensors__parse(const struct file_map *map, struct tix *x, struct err *e) LATENT_MUST_CHECK;

#endif
