/* base/hex.h - digits of hexadecimal numbers. */
#ifndef LATENT_BASE_HEX_H
#define LATENT_BASE_HEX_H

/* 0 .. 15, in either case; -1: no digit. */
static inline int hex_value(char ch)
{
    int low = ch | 32;
    return ch >= '0' && ch <= '9' ? ch - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

#endif
