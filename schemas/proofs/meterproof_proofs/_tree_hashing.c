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

/* Four rounds of section 6.2.2 with the words of step `i`, and the words that step `i + 4` needs. */
#define FOUR_ROUNDS(state, words, i) \
    do { \
        const __m128i now = words[(i) & 3]; \
        const __m128i sum = _mm_add_epi32(now, _mm_load_si128((const __m128i *)(ROUND_CONSTANTS + 4 * (i)))); \
        state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, sum); \
        state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(sum, 0x0e)); \
        if ((i) < 12) { \
            const __m128i third = words[((i) + 2) & 3], fourth = words[((i) + 3) & 3]; \
            const __m128i partial = _mm_add_epi32( \
                _mm_sha256msg1_epu32(now, words[((i) + 1) & 3]), _mm_alignr_epi8(fourth, third, 4)); \
            words[(i) & 3] = _mm_sha256msg2_epu32(partial, fourth); \
        } \
    } while (0)

__attribute__((target("sha,sse4.1"))) static inline void
load_words(__m128i words[4], const uint8_t *block)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    for (int i = 0; i < 4; i++)
        words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), big_endian);
}

__attribute__((target("sha,sse4.1"))) static inline State
sum_of(State state, State before)
{
    state.abef = _mm_add_epi32(state.abef, before.abef);
    state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
    return state;
}

__attribute__((target("sha,sse4.1"))) static State
compress(State state, const uint8_t *data, size_t blocks)
{
    for (; blocks > 0; blocks--, data += BLOCK_BYTES) {
        const State before = state;
        __m128i words[4];
        load_words(words, data);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            FOUR_ROUNDS(state, words, i);
        state = sum_of(state, before);
    }
    return state;
}

/* The same for two messages: the rounds of the one fill the time in which those of the other wait for each other. */
__attribute__((target("sha,sse4.1"))) static void
compress_two(State states[2], const uint8_t *data, const uint8_t *other_data, size_t blocks)
{
    State one = states[0], other = states[1];
    for (size_t at = 0; at < blocks * BLOCK_BYTES; at += BLOCK_BYTES) {
        const State one_before = one, other_before = other;
        __m128i one_words[4], other_words[4];
        load_words(one_words, data + at);
        load_words(other_words, other_data + at);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            FOUR_ROUNDS(one, one_words, i);
            FOUR_ROUNDS(other, other_words, i);
        }
        one = sum_of(one, one_before);
        other = sum_of(other, other_before);
    }
    states[0] = one;
    states[1] = other;
}

/* A message on its way, cut into runs of whole blocks: what begins with its prefix, what stands in it, what is padded. */
typedef struct {
    const uint8_t *runs[3];
    size_t blocks[3];
    int run; /* at hand; 3 when there is no message */
    uint8_t first[BLOCK_BYTES];
    uint8_t last[2 * BLOCK_BYTES];
    uint8_t *digest; /* where it goes */
} Lane;

/* Hashes messages two at a time. */
typedef struct {
    State states[2];
    Lane lanes[2];
} Hasher;

static inline void
begin(Hasher *hasher)
{
    hasher->lanes[0].run = hasher->lanes[1].run = 3;
}

static inline void
skip_empty_runs(Lane *lane)
{
    while (lane->run < 3 && lane->blocks[lane->run] == 0)
        lane->run++;
}

/* Take in a prefix, shorter than a block, and a content, which must stay unless it is shorter than two blocks. */
static void
cut(Lane *lane, const uint8_t *prefix, size_t prefix_bytes, const uint8_t *content, size_t content_bytes)
{
    uint64_t bits = 8 * ((uint64_t)prefix_bytes + (uint64_t)content_bytes);
    size_t held = 0;
    lane->run = 1;
    if (prefix_bytes > 0 && prefix_bytes + content_bytes >= BLOCK_BYTES) {
        const size_t taken = BLOCK_BYTES - prefix_bytes;
        memcpy(lane->first, prefix, prefix_bytes);
        memcpy(lane->first + prefix_bytes, content, taken);
        lane->runs[0] = lane->first;
        lane->blocks[0] = 1;
        lane->run = 0;
        content += taken;
        content_bytes -= taken;
    } else if (prefix_bytes > 0) {
        memcpy(lane->last, prefix, prefix_bytes);
        held = prefix_bytes;
    }
    lane->runs[1] = content;
    lane->blocks[1] = content_bytes / BLOCK_BYTES; /* none where a prefix is held */
    content += content_bytes - content_bytes % BLOCK_BYTES;
    content_bytes %= BLOCK_BYTES;
    memcpy(lane->last + held, content, content_bytes);
    held += content_bytes;
    /* Section 5.1.1: a one, zeros, and the length in the last eight bytes of a block. */
    lane->runs[2] = lane->last;
    lane->blocks[2] = held + 9 <= BLOCK_BYTES ? 1 : 2;
    const size_t padded = lane->blocks[2] * BLOCK_BYTES;
    lane->last[held] = 0x80;
    memset(lane->last + held + 1, 0, padded - held - 9);
    bits = __builtin_bswap64(bits);
    memcpy(lane->last + padded - 8, &bits, sizeof bits);
    skip_empty_runs(lane);
}

static void
put_digest(uint8_t digest[HASH_BYTES], State state)
{
    uint32_t words[8];
    _mm_storeu_si128((__m128i *)words, state.abef);       /* f e b a */
    _mm_storeu_si128((__m128i *)(words + 4), state.cdgh); /* h g d c */
    const uint32_t ordered[8] = {words[3], words[2], words[7], words[6], words[1], words[0], words[5], words[4]};
    for (int i = 0; i < 8; i++) {
        const uint32_t swapped = __builtin_bswap32(ordered[i]);
        memcpy(digest + 4 * i, &swapped, 4);
    }
}

/* Blocks of the run at hand were hashed. */
static inline void
advance(Hasher *hasher, int number, size_t blocks)
{
    Lane *lane = &hasher->lanes[number];
    lane->runs[lane->run] += blocks * BLOCK_BYTES;
    lane->blocks[lane->run] -= blocks;
    skip_empty_runs(lane);
    if (lane->run == 3)
        put_digest(lane->digest, hasher->states[number]);
}

/* Hash a message; its digest is put down by `finish` at the latest. */
static void
hash(Hasher *hasher, uint8_t *digest, const uint8_t *prefix, size_t prefix_bytes, const uint8_t *content,
     size_t content_bytes)
{
    Lane *const one = &hasher->lanes[0], *const other = &hasher->lanes[1];
    const int free_lane = one->run < 3;
    cut(&hasher->lanes[free_lane], prefix, prefix_bytes, content, content_bytes);
    hasher->lanes[free_lane].digest = digest;
    hasher->states[free_lane] = initial_state();
    while (one->run < 3 && other->run < 3) {
        const size_t left = one->blocks[one->run], other_left = other->blocks[other->run];
        const size_t blocks = left < other_left ? left : other_left;
        compress_two(hasher->states, one->runs[one->run], other->runs[other->run], blocks);
        advance(hasher, 0, blocks);
        advance(hasher, 1, blocks);
    }
}

static void
finish(Hasher *hasher)
{
    for (int number = 0; number < 2; number++) {
        const Lane *lane = &hasher->lanes[number];
        while (lane->run < 3) {
            const size_t blocks = lane->blocks[lane->run];
            hasher->states[number] = compress(hasher->states[number], lane->runs[lane->run], blocks);
            advance(hasher, number, blocks);
        }
    }
}

static const uint8_t LEAF_PREFIX[1] = {0x00}, NODE_PREFIX[1] = {0x01}; /* RFC 6962, section 2.1 */

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

/* Where the bytes of a hash go that becomes item `i` of a list, or NULL with an error set. */
static uint8_t *
next_hash(PyObject *hashes, Py_ssize_t i)
{
    PyObject *hash = PyBytes_FromStringAndSize(NULL, HASH_BYTES);
    if (hash == NULL)
        return NULL;
    PyList_SET_ITEM(hashes, i, hash);
    return (uint8_t *)PyBytes_AS_STRING(hash);
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
    Hasher hasher;
    begin(&hasher);
    for (Py_ssize_t i = 0; hashes != NULL && i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        const uint8_t *content = bytes_of(item, -1);
        uint8_t *digest = content == NULL ? NULL : next_hash(hashes, i);
        if (digest == NULL)
            Py_CLEAR(hashes);
        else
            hash(&hasher, digest, prefix, prefix_bytes, content, (size_t)PyBytes_GET_SIZE(item));
    }
    if (hashes != NULL)
        finish(&hasher);
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
    return each_hashed(entries, LEAF_PREFIX, sizeof LEAF_PREFIX);
}

static PyObject *
pair_hashes(PyObject *Py_UNUSED(module), PyObject *nodes)
{
    PyObject *items = PySequence_Fast(nodes, "nodes must be iterable");
    if (items == NULL)
        return NULL;
    const Py_ssize_t pairs = PySequence_Fast_GET_SIZE(items) / 2;
    PyObject *parents = PyList_New(pairs);
    Hasher hasher;
    begin(&hasher);
    for (Py_ssize_t i = 0; parents != NULL && i < pairs; i++) {
        const uint8_t *left = bytes_of(PySequence_Fast_GET_ITEM(items, 2 * i), HASH_BYTES);
        const uint8_t *right = left == NULL ? NULL : bytes_of(PySequence_Fast_GET_ITEM(items, 2 * i + 1), HASH_BYTES);
        uint8_t *parent = right == NULL ? NULL : next_hash(parents, i);
        if (parent == NULL) {
            Py_CLEAR(parents);
            break;
        }
        uint8_t children[2 * HASH_BYTES];
        memcpy(children, left, HASH_BYTES);
        memcpy(children + HASH_BYTES, right, HASH_BYTES);
        hash(&hasher, parent, NODE_PREFIX, sizeof NODE_PREFIX, children, sizeof children);
    }
    if (parents != NULL)
        finish(&hasher);
    Py_DECREF(items);
    return parents;
}

/* Copy hashes to where they stand in a row; 0 with an error set if one is none. */
static int
put_in_a_row(uint8_t *row, PyObject *hashes)
{
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(hashes);
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint8_t *hash = bytes_of(PySequence_Fast_GET_ITEM(hashes, i), HASH_BYTES);
        if (hash == NULL)
            return 0;
        memcpy(row + i * HASH_BYTES, hash, HASH_BYTES);
    }
    return 1;
}

/* The subtrees of a tree of `size` leaves with `count` hashes appended, level by level to the end: of the `held` subtrees
 * that are kept so many stay as they are, which is returned, and behind them come those in `edge`, last one first. `row`
 * has room for one node before its first, and is used up. */
static Py_ssize_t
extend(unsigned long long size, const uint8_t *kept, Py_ssize_t held, uint8_t *row, Py_ssize_t count, uint8_t *edge,
       int *edges)
{
    Hasher hasher;
    begin(&hasher);
    *edges = 0;
    for (; count > 0; size >>= 1) {
        uint8_t *nodes = row + HASH_BYTES;
        if (size & 1) { /* a subtree from before stands left of the new nodes */
            nodes = row;
            memcpy(nodes, kept + --held * HASH_BYTES, HASH_BYTES);
            count++;
        }
        if (count & 1) /* an unpaired last node belongs to the new edge */
            memcpy(edge + (*edges)++ * HASH_BYTES, nodes + --count * HASH_BYTES, HASH_BYTES);
        count /= 2;
        for (Py_ssize_t i = 0; i < count; i++) /* what is written over was taken in before */
            hash(&hasher, row + (1 + i) * HASH_BYTES, NODE_PREFIX, sizeof NODE_PREFIX, nodes + 2 * i * HASH_BYTES,
                 2 * HASH_BYTES);
        finish(&hasher);
    }
    return held;
}

static PyObject *
extended_by(unsigned long long size, const uint8_t *kept, Py_ssize_t held, uint8_t *row, Py_ssize_t count)
{
    uint8_t edge[SUBTREES_MAX * HASH_BYTES];
    int edges;
    held = extend(size, kept, held, row, count, edge, &edges);
    PyObject *hashes = PyList_New(held + edges);
    for (Py_ssize_t i = 0; hashes != NULL && i < held + edges; i++) {
        uint8_t *to = next_hash(hashes, i);
        if (to == NULL)
            Py_CLEAR(hashes);
        else
            memcpy(to, i < held ? kept + i * HASH_BYTES : edge + (held + edges - 1 - i) * HASH_BYTES, HASH_BYTES);
    }
    return hashes;
}

static PyObject *
extended(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t argument_count)
{
    if (argument_count != 3) {
        PyErr_SetString(PyExc_TypeError, "extended takes the size, the subtrees and the leaf hashes");
        return NULL;
    }
    const unsigned long long size = PyLong_AsUnsignedLongLong(arguments[0]);
    if (size == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    PyObject *subtrees = PySequence_Fast(arguments[1], "subtrees must be iterable");
    PyObject *const together = PyBytes_Check(arguments[2]) ? arguments[2] : NULL;
    PyObject *leaves = subtrees == NULL  ? NULL
                       : together != NULL ? Py_NewRef(together)
                                          : PySequence_Fast(arguments[2], "leaf hashes must be iterable");
    PyObject *hashes = NULL;
    uint8_t *row = NULL;
    if (leaves == NULL)
        goto done;
    const Py_ssize_t held = PySequence_Fast_GET_SIZE(subtrees);
    const Py_ssize_t count = together ? PyBytes_GET_SIZE(together) / HASH_BYTES : PySequence_Fast_GET_SIZE(leaves);
    uint8_t kept[SUBTREES_MAX * HASH_BYTES];
    if (held != __builtin_popcountll(size))
        PyErr_Format(PyExc_ValueError, "a tree of %llu leaves has not %zd subtrees", size, held);
    else if (size > INT64_MAX || (unsigned long long)count > INT64_MAX - size)
        PyErr_SetString(PyExc_ValueError, "no tree is so large");
    else if (together && PyBytes_GET_SIZE(together) % HASH_BYTES)
        PyErr_Format(PyExc_ValueError, "%zd bytes are no row of hashes", PyBytes_GET_SIZE(together));
    else if ((row = PyMem_Malloc(((size_t)count + 1) * HASH_BYTES)) == NULL)
        PyErr_NoMemory();
    else if (put_in_a_row(kept, subtrees)) {
        if (together)
            memcpy(row + HASH_BYTES, PyBytes_AS_STRING(together), (size_t)count * HASH_BYTES);
        if (together || put_in_a_row(row + HASH_BYTES, leaves))
            hashes = extended_by(size, kept, held, row, count);
    }
done:
    PyMem_Free(row);
    Py_XDECREF(subtrees);
    Py_XDECREF(leaves);
    return hashes;
}

static PyObject *
joined(PyObject *Py_UNUSED(module), PyObject *subtrees)
{
    PyObject *items = PySequence_Fast(subtrees, "subtrees must be iterable");
    if (items == NULL)
        return NULL;
    Py_ssize_t at = PySequence_Fast_GET_SIZE(items);
    uint8_t node[2 * HASH_BYTES]; /* the root of what stands to the right is its right half */
    uint8_t *const root = node + HASH_BYTES;
    Hasher hasher;
    begin(&hasher);
    if (at == 0) {
        hash(&hasher, root, NULL, 0, node, 0);
        finish(&hasher);
    }
    for (int begun = 0; at > 0; begun = 1) {
        const uint8_t *subtree = bytes_of(PySequence_Fast_GET_ITEM(items, --at), HASH_BYTES);
        if (subtree == NULL) {
            Py_DECREF(items);
            return NULL;
        }
        memcpy(begun ? node : root, subtree, HASH_BYTES);
        if (begun) {
            hash(&hasher, root, NODE_PREFIX, sizeof NODE_PREFIX, node, sizeof node);
            finish(&hasher);
        }
    }
    Py_DECREF(items);
    return PyBytes_FromStringAndSize((const char *)root, HASH_BYTES);
}

/* The digest of a text, then the entry and the leaf hash of each of its lines, of which there are so many. */
static void
hash_lines(const uint8_t *text, size_t size, size_t start, Py_ssize_t count, uint8_t *digest, uint8_t *entries,
           uint8_t *leaves)
{
    const uint8_t *line = text + start;
    Hasher hasher;
    begin(&hasher);
    hash(&hasher, digest, NULL, 0, text, size); /* as long as all its lines together: it takes one of the two places */
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint8_t *line_end = memchr(line, '\n', (size_t)(text + size - line));
        hash(&hasher, entries + i * HASH_BYTES, NULL, 0, line, (size_t)(line_end - line));
        line = line_end + 1;
    }
    finish(&hasher);
    for (Py_ssize_t i = 0; i < count; i++)
        hash(&hasher, leaves + i * HASH_BYTES, LEAF_PREFIX, sizeof LEAF_PREFIX, entries + i * HASH_BYTES, HASH_BYTES);
    finish(&hasher);
}

/* The root over leaf hashes. `row` has room for one node before its first, and is used up. */
static void
root_over(uint8_t *row, Py_ssize_t count, uint8_t *root)
{
    uint8_t edge[SUBTREES_MAX * HASH_BYTES], node[2 * HASH_BYTES];
    int edges;
    Hasher hasher;
    extend(0, NULL, 0, row, count, edge, &edges);
    begin(&hasher);
    if (edges == 0) {
        hash(&hasher, root, NULL, 0, node, 0);
        finish(&hasher);
        return;
    }
    memcpy(root, edge, HASH_BYTES);
    for (int i = 1; i < edges; i++) {
        memcpy(node, edge + i * HASH_BYTES, HASH_BYTES);
        memcpy(node + HASH_BYTES, root, HASH_BYTES);
        hash(&hasher, root, NODE_PREFIX, sizeof NODE_PREFIX, node, sizeof node);
        finish(&hasher);
    }
}

static PyObject *
text_tree(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t argument_count)
{
    const uint8_t *text = argument_count == 2 ? bytes_of(arguments[0], -1) : NULL;
    if (text == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "text_tree takes a text and where its lines begin");
        return NULL;
    }
    const Py_ssize_t size = PyBytes_GET_SIZE(arguments[0]), start = PyLong_AsSsize_t(arguments[1]);
    if (start == -1 && PyErr_Occurred())
        return NULL;
    if (start < 0 || start > size) {
        PyErr_Format(PyExc_ValueError, "no line begins at %zd in a text of %zd bytes", start, size);
        return NULL;
    }
    Py_ssize_t count = 0;
    const uint8_t *const end = text + size;
    for (const uint8_t *at = text + start; (at = memchr(at, '\n', (size_t)(end - at))) != NULL; at++)
        count++;
    PyObject *digest = PyBytes_FromStringAndSize(NULL, HASH_BYTES), *root = PyBytes_FromStringAndSize(NULL, HASH_BYTES);
    PyObject *entries = PyBytes_FromStringAndSize(NULL, count * HASH_BYTES);
    PyObject *leaves = PyBytes_FromStringAndSize(NULL, count * HASH_BYTES);
    uint8_t *row = PyMem_Malloc(((size_t)count + 1) * HASH_BYTES);
    PyObject *result = NULL;
    if (row == NULL) {
        PyErr_NoMemory();
    } else if (digest != NULL && root != NULL && entries != NULL && leaves != NULL) {
        hash_lines(text, (size_t)size, (size_t)start, count, (uint8_t *)PyBytes_AS_STRING(digest),
                   (uint8_t *)PyBytes_AS_STRING(entries), (uint8_t *)PyBytes_AS_STRING(leaves));
        memcpy(row + HASH_BYTES, PyBytes_AS_STRING(leaves), (size_t)count * HASH_BYTES);
        root_over(row, count, (uint8_t *)PyBytes_AS_STRING(root));
        result = PyTuple_Pack(4, digest, entries, leaves, root);
    }
    PyMem_Free(row);
    Py_XDECREF(digest);
    Py_XDECREF(root);
    Py_XDECREF(entries);
    Py_XDECREF(leaves);
    return result;
}

static PyMethodDef FUNCTIONS[] = {
    {"digests", digests, METH_O, "digests(contents, /)\n--\n\nAs in python_tree_hashing."},
    {"text_tree", (PyCFunction)(void (*)(void))text_tree, METH_FASTCALL,
     "text_tree(text, start, /)\n--\n\nAs in python_tree_hashing."},
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
