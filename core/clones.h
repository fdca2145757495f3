#pragma once

// Functions compiled for several instruction sets, of which the program takes the best that the
// processor has when it starts (GCC's function multiversioning). A file that uses them and whose
// results are written to disk is compiled with -ffp-contract=off, so that wider registers change
// nothing but the time.

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WEFT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
// Sanitizers cannot instrument the resolvers of clones, which run before they are set up.
#define WEFT_CLONES
#endif
#define WEFT_INLINE [[gnu::always_inline]] inline
// For lambdas inside kernels: one that is not inlined is compiled for the oldest processor only.
#define WEFT_INLINED __attribute__((always_inline))
