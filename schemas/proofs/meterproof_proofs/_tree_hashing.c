/*
 * What `python_tree_hashing.py` does, many hashes to one call, by the SHA instructions of x86 processors.
 *
 * SHA-256 is FIPS 180-4; its rounds are the instructions of "Intel SHA Extensions" (2013). Where the processor lacks them,
 * importing this module fails and `tree_hashing` takes the Python functions: a SHA-256 in plain C would be slower than
 * OpenSSL's. What this saves is Python's price of a digest, 0.5 us however short the content is.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>

#define HASH_BYTES 32
#define BLOCK_BYTES 64
#define SUBTREES_MAX 64

static const uint32_t ROUND_CONSTANTS[64] __attribute__((aligned(16))) = { /* FIPS 180-4, section 4.2.2 */
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* The state of a SHA-256 over so many whole blocks, in the order in which the instructions want it. */
typedef struct {
    __m128i abef;
    __m128i cdgh;
} State;

__attribute__((target("sha,sse4.1"))) static inline State
initial_state(void)
{ /* FIPS 180-4, section 5.3.3: a = 6a09e667, b = bb67ae85, c = 3c6ef372, d = a54ff53a, ... */
    State state = {
        _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c),
        _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19),
    };
    return state;
}

__attribute__((target("sha,sse4.1"))) static inline State
compress(State state, const uint8_t *data, size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    for (; blocks > 0; blocks--, data += BLOCK_BYTES) {
        const State before = state;
        __m128i words[4];
        for (int i = 0; i < 4; i++)
            words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), big_endian);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) { /* four rounds each */
            const __m128i now = words[i & 3];
            const __m128i sum = _mm_add_epi32(now, _mm_load_si128((const __m128i *)(ROUND_CONSTANTS + 4 * i)));
            state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, sum);
            state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (i < 12) { /* the words of the rounds after next: section 6.2.2, step 1 */
                const __m128i third = words[(i + 2) & 3], fourth = words[(i + 3) & 3];
                const __m128i partial = _mm_add_epi32(
                    _mm_sha256msg1_epu32(now, words[(i + 1) & 3]), _mm_alignr_epi8(fourth, third, 4));
                words[i & 3] = _mm_sha256msg2_epu32(partial, fourth);
            }
        }
        state.abef = _mm_add_epi32(state.abef, before.abef);
        state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
    }
    return state;
}

/* SHA-256 of a few bytes of prefix and a content. A prefix is shorter than a block. */
__attribute__((target("sha,sse4.1"))) static void
sha256(uint8_t digest[HASH_BYTES], const uint8_t *prefix, size_t prefix_bytes, const uint8_t *content,
       size_t content_bytes)
{
    const uint64_t bits = 8 * ((uint64_t)prefix_bytes + (uint64_t)content_bytes);
    uint8_t rest[2 * BLOCK_BYTES];
    State state = initial_state();
    size_t held = prefix_bytes;
    if (prefix_bytes > 0) {
        memcpy(rest, prefix, prefix_bytes);
        if (prefix_bytes + content_bytes >= BLOCK_BYTES) {
            const size_t taken = BLOCK_BYTES - prefix_bytes;
            memcpy(rest + prefix_bytes, content, taken);
            state = compress(state, rest, 1);
            content += taken;
            content_bytes -= taken;
            held = 0;
        }
    }
    if (held == 0) {
        state = compress(state, content, content_bytes / BLOCK_BYTES);
        content += content_bytes - content_bytes % BLOCK_BYTES;
        content_bytes %= BLOCK_BYTES;
    }
    memcpy(rest + held, content, content_bytes);
    held += content_bytes;
    /* Section 5.1.1: a one, zeros, and the length in the last eight bytes of a block. */
    const size_t padded = held + 9 <= BLOCK_BYTES ? BLOCK_BYTES : 2 * BLOCK_BYTES;
    rest[held] = 0x80;
    memset(rest + held + 1, 0, padded - held - 9);
    for (int i = 0; i < 8; i++)
        rest[padded - 1 - i] = (uint8_t)(bits >> (8 * i));
    state = compress(state, rest, padded / BLOCK_BYTES);
    uint32_t words[8];
    _mm_storeu_si128((__m128i *)words, state.abef);       /* f e b a */
    _mm_storeu_si128((__m128i *)(words + 4), state.cdgh); /* h g d c */
    const uint32_t ordered[8] = {words[3], words[2], words[7], words[6], words[1], words[0], words[5], words[4]};
    for (int i = 0; i < 8; i++) {
        const uint32_t swapped = __builtin_bswap32(ordered[i]);
        memcpy(digest + 4 * i, &swapped, 4);
    }
}

/* RFC 6962, section 2.1. `digest` may be one of the children. */
static void
node_hash(uint8_t digest[HASH_BYTES], const uint8_t left[HASH_BYTES], const uint8_t right[HASH_BYTES])
{
    uint8_t node[1 + 2 * HASH_BYTES];
    node[0] = 0x01;
    memcpy(node + 1, left, HASH_BYTES);
    memcpy(node + 1 + HASH_BYTES, right, HASH_BYTES);
    sha256(digest, NULL, 0, node, sizeof node);
}

/* The bytes of an item, or NULL with an error set. `size` below 0 takes any length. */
static const uint8_t *
bytes_of(PyObject *item, Py_ssize_t size)
{
    if (!PyBytes_Check(item)) {
        PyErr_Format(PyExc_TypeError, "bytes are hashed here, not %.100s", Py_TYPE(item)->tp_name);
        return NULL;
    }
    if (size >= 0 && PyBytes_GET_SIZE(item) != size) {
        PyErr_Format(PyExc_ValueError, "a hash has %zd bytes, not %zd", size, PyBytes_GET_SIZE(item));
        return NULL;
    }
    return (const uint8_t *)PyBytes_AS_STRING(item);
}

static PyObject *
hash_object(const uint8_t digest[HASH_BYTES])
{
    return PyBytes_FromStringAndSize((const char *)digest, HASH_BYTES);
}

/* A list of the hash of each item behind a prefix. */
static PyObject *
each_hashed(PyObject *contents, const uint8_t *prefix, size_t prefix_bytes)
{
    PyObject *items = PySequence_Fast(contents, "what is hashed must be iterable");
    if (items == NULL)
        return NULL;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    PyObject *hashes = PyList_New(count);
    for (Py_ssize_t i = 0; hashes != NULL && i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        const uint8_t *content = bytes_of(item, -1);
        PyObject *hash = content == NULL ? NULL : PyBytes_FromStringAndSize(NULL, HASH_BYTES);
        if (hash == NULL) {
            Py_CLEAR(hashes);
            break;
        }
        sha256((uint8_t *)PyBytes_AS_STRING(hash), prefix, prefix_bytes, content, (size_t)PyBytes_GET_SIZE(item));
        PyList_SET_ITEM(hashes, i, hash);
    }
    Py_DECREF(items);
    return hashes;
}

static PyObject *
digests(PyObject *Py_UNUSED(module), PyObject *contents)
{
    return each_hashed(contents, NULL, 0);
}

static PyObject *
leaf_hashes(PyObject *Py_UNUSED(module), PyObject *entries)
{
    static const uint8_t prefix[1] = {0x00};
    return each_hashed(entries, prefix, sizeof prefix);
}

static PyObject *
pair_hashes(PyObject *Py_UNUSED(module), PyObject *nodes)
{
    PyObject *items = PySequence_Fast(nodes, "nodes must be iterable");
    if (items == NULL)
        return NULL;
    const Py_ssize_t pairs = PySequence_Fast_GET_SIZE(items) / 2;
    PyObject *parents = PyList_New(pairs);
    for (Py_ssize_t i = 0; parents != NULL && i < pairs; i++) {
        const uint8_t *left = bytes_of(PySequence_Fast_GET_ITEM(items, 2 * i), HASH_BYTES);
        const uint8_t *right = left == NULL ? NULL : bytes_of(PySequence_Fast_GET_ITEM(items, 2 * i + 1), HASH_BYTES);
        PyObject *parent = right == NULL ? NULL : PyBytes_FromStringAndSize(NULL, HASH_BYTES);
        if (parent == NULL) {
            Py_CLEAR(parents);
            break;
        }
        node_hash((uint8_t *)PyBytes_AS_STRING(parent), left, right);
        PyList_SET_ITEM(parents, i, parent);
    }
    Py_DECREF(items);
    return parents;
}

static PyObject *
extended(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t argument_count)
{
    if (argument_count != 3) {
        PyErr_SetString(PyExc_TypeError, "extended takes the size, the subtrees and the leaf hashes");
        return NULL;
    }
    unsigned long long size = PyLong_AsUnsignedLongLong(arguments[0]);
    if (size == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    uint8_t subtrees[SUBTREES_MAX][HASH_BYTES];
    PyObject *kept = PySequence_Fast(arguments[1], "subtrees must be iterable");
    if (kept == NULL)
        return NULL;
    Py_ssize_t held = PySequence_Fast_GET_SIZE(kept);
    if (held != __builtin_popcountll(size)) {
        PyErr_Format(PyExc_ValueError, "a tree of %llu leaves has not %zd subtrees", size, held);
        Py_DECREF(kept);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < held; i++) {
        const uint8_t *subtree = bytes_of(PySequence_Fast_GET_ITEM(kept, i), HASH_BYTES);
        if (subtree == NULL) {
            Py_DECREF(kept);
            return NULL;
        }
        memcpy(subtrees[i], subtree, HASH_BYTES);
    }
    Py_DECREF(kept);
    PyObject *leaves = PySequence_Fast(arguments[2], "leaf hashes must be iterable");
    if (leaves == NULL)
        return NULL;
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(leaves);
    if ((unsigned long long)count > (unsigned long long)INT64_MAX - size) {
        PyErr_SetString(PyExc_ValueError, "no tree is so large");
        Py_DECREF(leaves);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++, size++) {
        const uint8_t *leaf = bytes_of(PySequence_Fast_GET_ITEM(leaves, i), HASH_BYTES);
        if (leaf == NULL) {
            Py_DECREF(leaves);
            return NULL;
        }
        memcpy(subtrees[held++], leaf, HASH_BYTES); /* each leaf closes the subtrees that it completes */
        for (unsigned long long complete = size; complete & 1; complete >>= 1, held--)
            node_hash(subtrees[held - 2], subtrees[held - 2], subtrees[held - 1]);
    }
    Py_DECREF(leaves);
    PyObject *hashes = PyList_New(held);
    for (Py_ssize_t i = 0; hashes != NULL && i < held; i++) {
        PyObject *hash = hash_object(subtrees[i]);
        if (hash == NULL) {
            Py_CLEAR(hashes);
            break;
        }
        PyList_SET_ITEM(hashes, i, hash);
    }
    return hashes;
}

static PyObject *
joined(PyObject *Py_UNUSED(module), PyObject *subtrees)
{
    PyObject *items = PySequence_Fast(subtrees, "subtrees must be iterable");
    if (items == NULL)
        return NULL;
    Py_ssize_t at = PySequence_Fast_GET_SIZE(items);
    uint8_t root[HASH_BYTES];
    if (at == 0)
        sha256(root, NULL, 0, root, 0);
    for (int begun = 0; at > 0; begun = 1) {
        const uint8_t *subtree = bytes_of(PySequence_Fast_GET_ITEM(items, --at), HASH_BYTES);
        if (subtree == NULL) {
            Py_DECREF(items);
            return NULL;
        }
        if (begun)
            node_hash(root, subtree, root);
        else
            memcpy(root, subtree, HASH_BYTES);
    }
    Py_DECREF(items);
    return hash_object(root);
}

static PyMethodDef FUNCTIONS[] = {
    {"digests", digests, METH_O, "digests(contents, /)\n--\n\nAs in python_tree_hashing."},
    {"leaf_hashes", leaf_hashes, METH_O, "leaf_hashes(entries, /)\n--\n\nAs in python_tree_hashing."},
    {"pair_hashes", pair_hashes, METH_O, "pair_hashes(nodes, /)\n--\n\nAs in python_tree_hashing."},
    {"extended", (PyCFunction)(void (*)(void))extended, METH_FASTCALL,
     "extended(size, subtrees, leaf_hashes, /)\n--\n\nAs in python_tree_hashing."},
    {"joined", joined, METH_O, "joined(subtrees, /)\n--\n\nAs in python_tree_hashing."},
    {NULL, NULL, 0, NULL},
};

static int
has_sha_extensions(void)
{
    unsigned int a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

#else /* another processor or compiler */

static PyMethodDef FUNCTIONS[] = {{NULL, NULL, 0, NULL}};

static int
has_sha_extensions(void)
{
    return 0;
}

#endif

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meterproof_proofs._tree_hashing",
    .m_doc = "The functions of meterproof_proofs.tree_hashing, which says what each of them does.",
    .m_size = 0,
    .m_methods = FUNCTIONS,
};

PyMODINIT_FUNC
PyInit__tree_hashing(void)
{
    if (!has_sha_extensions()) {
        PyErr_SetString(PyExc_ImportError, "this processor has no SHA extensions");
        return NULL;
    }
    return PyModule_Create(&MODULE);
}
