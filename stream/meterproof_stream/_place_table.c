/*
 * What `python_place_table.py` does, a whole batch to one call; its docstrings say what that is.
 *
 * Looking an identity up costs one read from memory for each table, which the processor is told of before it is needed, so
 * that many are under way at once. No Python code runs between the first look at the arguments and the last.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#if defined(__SIZEOF_INT128__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

#define IDENTITY_BYTES 16
#define SEED_BYTES 16
#define SLOTS 16 /* of a bucket: one cache line */
#define FILLED 13 /* of them, on average, in a table that is full */
#define PLACE_BITS 18
#define PLACES (((uint32_t)1 << PLACE_BITS) - 1)
#define LINE_BYTES 64
#define TOGETHER 64 /* identities of which the buckets are fetched at once */
#define CAPACITY_MAX ((Py_ssize_t)1 << 32)

typedef struct {
    PyObject_HEAD
    uint64_t seeds[2];
    uint64_t buckets;
    Py_ssize_t capacity;
    Py_ssize_t held;
    void *memory;
    uint32_t *slots;
} PlaceTable;

/* Where something was found. */
typedef struct {
    Py_ssize_t identity;
    Py_ssize_t table;
    uint32_t place;
} Hit;

typedef struct {
    Hit *hits;
    size_t count;
    size_t room;
} Hits;

static inline uint64_t
scrambled(const PlaceTable *table, const uint8_t *identity)
{
    uint64_t words[2];
    memcpy(words, identity, IDENTITY_BYTES);
    const unsigned __int128 product =
        (unsigned __int128)(words[0] ^ table->seeds[0]) * (words[1] ^ table->seeds[1]);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t
bucket_of(const PlaceTable *table, uint64_t hash)
{
    return (uint64_t)(((unsigned __int128)hash * table->buckets) >> 64);
}

static int
table_init(PlaceTable *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"capacity", "seed", NULL};
    Py_ssize_t capacity;
    Py_buffer seed;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ny*", names, &capacity, &seed))
        return -1;
    const int right = seed.len == SEED_BYTES && capacity > 0 && capacity <= CAPACITY_MAX && self->memory == NULL;
    if (right)
        memcpy(self->seeds, seed.buf, SEED_BYTES);
    PyBuffer_Release(&seed);
    if (!right) {
        PyErr_SetString(PyExc_ValueError, "a capacity above 0 and a seed of 16 bytes, once");
        return -1;
    }
    self->capacity = capacity;
    self->buckets = (uint64_t)capacity / FILLED + 1;
    self->memory = calloc(self->buckets + 1, LINE_BYTES);
    if (self->memory == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    const uintptr_t aligned = ((uintptr_t)self->memory + LINE_BYTES - 1) & ~(uintptr_t)(LINE_BYTES - 1);
    self->slots = (uint32_t *)aligned;
    return 0;
}

static void
table_dealloc(PlaceTable *self)
{
    free(self->memory);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static Py_ssize_t
table_length(PlaceTable *self)
{
    return self->held;
}

static void
put(PlaceTable *self, uint64_t hash, uint32_t place)
{
    const uint32_t slot = (uint32_t)(hash << PLACE_BITS) | (place + 1);
    for (uint64_t bucket = bucket_of(self, hash);; bucket = bucket + 1 == self->buckets ? 0 : bucket + 1) {
        uint32_t *line = self->slots + bucket * SLOTS;
        if (line[SLOTS - 1] != 0)
            continue;
        int i = 0;
        while (line[i] != 0)
            i++;
        line[i] = slot;
        return;
    }
}

static PyObject *
table_add(PlaceTable *self, PyObject *args)
{
    Py_buffer identities;
    long long place;
    if (!PyArg_ParseTuple(args, "y*L", &identities, &place))
        return NULL;
    const Py_ssize_t count = identities.len / IDENTITY_BYTES;
    if (identities.len % IDENTITY_BYTES || place < 0 || place >= PLACES || count > self->capacity - self->held) {
        PyBuffer_Release(&identities);
        PyErr_SetString(PyExc_ValueError, "whole identities, a place that there is, and not more than the table takes");
        return NULL;
    }
    const uint8_t *identity = identities.buf;
    for (Py_ssize_t done = 0; done < count;) {
        uint64_t hashes[TOGETHER];
        const int some = count - done < TOGETHER ? (int)(count - done) : TOGETHER;
        for (int i = 0; i < some; i++, identity += IDENTITY_BYTES) {
            hashes[i] = scrambled(self, identity);
            __builtin_prefetch(self->slots + bucket_of(self, hashes[i]) * SLOTS, 1);
        }
        for (int i = 0; i < some; i++)
            put(self, hashes[i], (uint32_t)place);
        done += some;
    }
    self->held += count;
    PyBuffer_Release(&identities);
    Py_RETURN_NONE;
}

/* One bit for each slot of a bucket that has this tag; an empty one has tag 0. */
static inline uint32_t
slots_with(const uint32_t *line, uint32_t tag)
{
#ifdef __SSE2__
    const __m128i wanted = _mm_set1_epi32((int)tag), places = _mm_set1_epi32((int)PLACES);
    __m128i equal[4];
    for (int i = 0; i < 4; i++)
        equal[i] = _mm_cmpeq_epi32(_mm_andnot_si128(places, _mm_load_si128((const __m128i *)line + i)), wanted);
    return (uint32_t)_mm_movemask_epi8(
        _mm_packs_epi16(_mm_packs_epi32(equal[0], equal[1]), _mm_packs_epi32(equal[2], equal[3])));
#else
    uint32_t alike = 0;
    for (int i = 0; i < SLOTS; i++)
        alike |= (uint32_t)(((line[i] ^ tag) & ~PLACES) == 0) << i;
    return alike;
#endif
}

/* Returns 0, or -1 where there is no memory. */
static int
look_up(const PlaceTable *table, uint64_t hash, Py_ssize_t identity, Py_ssize_t number, Hits *found)
{
    const uint32_t tag = (uint32_t)(hash << PLACE_BITS);
    for (uint64_t bucket = bucket_of(table, hash);; bucket = bucket + 1 == table->buckets ? 0 : bucket + 1) {
        const uint32_t *line = table->slots + bucket * SLOTS;
        uint32_t alike = slots_with(line, tag);
        for (; alike != 0; alike &= alike - 1) {
            const uint32_t slot = line[__builtin_ctz(alike)];
            if (slot == 0)
                break; /* and so are those behind it */
            if (found->count == found->room) {
                const size_t room = found->room ? 2 * found->room : 64;
                Hit *hits = realloc(found->hits, room * sizeof(Hit));
                if (hits == NULL)
                    return -1;
                found->hits = hits;
                found->room = room;
            }
            found->hits[found->count++] = (Hit){identity, number, (slot & PLACES) - 1};
        }
        if (line[SLOTS - 1] == 0)
            return 0;
    }
}

static PyTypeObject table_type;

static int
search(PyObject **tables, Py_ssize_t table_count, const uint8_t *identities, Py_ssize_t count, Hits *found)
{
    for (Py_ssize_t first = 0; first < count; first += TOGETHER) {
        uint64_t hashes[TOGETHER];
        const int some = count - first < TOGETHER ? (int)(count - first) : TOGETHER;
        for (Py_ssize_t number = 0; number < table_count; number++) {
            const PlaceTable *table = (const PlaceTable *)tables[number];
            for (int i = 0; i < some; i++) {
                hashes[i] = scrambled(table, identities + (first + i) * IDENTITY_BYTES);
                __builtin_prefetch(table->slots + bucket_of(table, hashes[i]) * SLOTS);
            }
            for (int i = 0; i < some; i++)
                if (look_up(table, hashes[i], first + i, number, found) < 0)
                    return -1;
        }
    }
    return 0;
}

static PyObject *
places_of(PyObject *module, PyObject *args)
{
    PyObject *tables, *identities, *result = NULL;
    Hits found = {NULL, 0, 0};
    (void)module;
    if (!PyArg_ParseTuple(args, "OS", &tables, &identities))
        return NULL;
    if (PyBytes_GET_SIZE(identities) % IDENTITY_BYTES) {
        PyErr_SetString(PyExc_ValueError, "whole identities");
        return NULL;
    }
    tables = PySequence_Fast(tables, "tables: a sequence");
    if (tables == NULL)
        return NULL;
    const Py_ssize_t table_count = PySequence_Fast_GET_SIZE(tables);
    for (Py_ssize_t i = 0; i < table_count; i++)
        if (!PyObject_TypeCheck(PySequence_Fast_GET_ITEM(tables, i), &table_type)
            || ((PlaceTable *)PySequence_Fast_GET_ITEM(tables, i))->slots == NULL) {
            PyErr_SetString(PyExc_TypeError, "tables: each a PlaceTable");
            goto done;
        }
    if (search(PySequence_Fast_ITEMS(tables), table_count, (const uint8_t *)PyBytes_AS_STRING(identities),
               PyBytes_GET_SIZE(identities) / IDENTITY_BYTES, &found) < 0) {
        PyErr_NoMemory();
        goto done;
    }
    result = PyList_New((Py_ssize_t)found.count);
    for (size_t i = 0; result != NULL && i < found.count; i++) {
        const Hit *hit = found.hits + i;
        PyObject *item = Py_BuildValue("(nnk)", hit->identity, hit->table, (unsigned long)hit->place);
        if (item == NULL)
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, (Py_ssize_t)i, item);
    }
done:
    free(found.hits);
    Py_DECREF(tables);
    return result;
}

static PyObject *
table_capacity(PlaceTable *self, void *closure)
{
    (void)closure;
    return PyLong_FromSsize_t(self->capacity);
}

static PyMethodDef table_methods[] = {
    {"add", (PyCFunction)table_add, METH_VARARGS, PyDoc_STR("See python_place_table.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef table_properties[] = {
    {"capacity", (getter)table_capacity, NULL, PyDoc_STR("See python_place_table."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PySequenceMethods table_as_sequence = {
    .sq_length = (lenfunc)table_length,
};

static PyTypeObject table_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "meterproof_stream._place_table.PlaceTable",
    .tp_doc = PyDoc_STR("See python_place_table."),
    .tp_basicsize = sizeof(PlaceTable),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)table_init,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_getset = table_properties,
    .tp_as_sequence = &table_as_sequence,
};

static PyMethodDef functions[] = {
    {"places_of", places_of, METH_VARARGS, PyDoc_STR("See python_place_table.")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meterproof_stream._place_table",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__place_table(void)
{
    if (PyType_Ready(&table_type) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyModule_AddIntConstant(module, "PLACES", PLACES) < 0
        || PyModule_AddObjectRef(module, "PlaceTable", (PyObject *)&table_type) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}

#else

PyMODINIT_FUNC
PyInit__place_table(void)
{
    PyErr_SetString(PyExc_ImportError, "written for little-endian processors of 64 bits, and GCC or Clang");
    return NULL;
}

#endif
