/*
 * Sums of multiples of two points of edwards25519 (RFC 8032) that are known long beforehand: what `ed25519_checks.py` asks.
 *
 * A point's odd multiples by 15 powers of two are kept (58 KB), so a sum takes 17 doublings and some 64 additions, where
 * a point that nobody knows takes 252 and 60. Everything here is public: nothing is kept secret by constant time.
 *
 * A field element is five limbs of 51 bits, not always reduced. "Tight" is what a product is: limbs below 2^51 + 2^13.
 * Sums and differences are "loose": below 2^54, which is what a product may be made of. Formulas for points: Hisil, Wong,
 * Carter and Dawson, "Twisted Edwards Curves Revisited" (2008), sections 3.1 and 3.3, for a = -1.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BLOCKS 15
#define BLOCK_BITS 18
#define WINDOW 7
#define ODD_MULTIPLES (1 << (WINDOW - 2))
#define SCALAR_BYTES 32
#define SCALAR_BITS 256
#define PLACES (BLOCKS * BLOCK_BITS)
#define FIELD_BYTES 32

typedef unsigned __int128 Wide;

#define LIMB_BITS 51
#define LIMB_MASK (((uint64_t)1 << LIMB_BITS) - 1)

typedef struct {
    uint64_t limb[5];
} Field;

/* --- the field: integers modulo p = 2^255 - 19 ---------------------------------------------------------------------- */

static const Field ZERO = {{0, 0, 0, 0, 0}};
static const Field ONE = {{1, 0, 0, 0, 0}};
/* 2d, of the curve's equation -x^2 + y^2 = 1 + d x^2 y^2 */
static const Field TWO_D = {{0x69b9426b2f159, 0x35050762add7a, 0x3cf44c0038052, 0x6738cc7407977, 0x2406d9dc56dff}};

static inline uint64_t
little_endian(const uint8_t *bytes)
{
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | bytes[i];
    return word;
}

static inline Field
sum(const Field *a, const Field *b)
{
    Field out;
    for (int i = 0; i < 5; i++)
        out.limb[i] = a->limb[i] + b->limb[i];
    return out;
}

/* a - b, and so many times p that no limb falls below 0. */
static inline Field
difference_above(const Field *a, const Field *b, uint64_t times)
{
    const uint64_t low = times * (LIMB_MASK - 18), high = times * LIMB_MASK;
    Field out;
    out.limb[0] = a->limb[0] + low - b->limb[0];
    for (int i = 1; i < 5; i++)
        out.limb[i] = a->limb[i] + high - b->limb[i];
    return out;
}

/* For limbs of b of at most 3 * 2^51 + 2^14, as in the sum of a tight a and 2p. */
static inline Field
difference(const Field *a, const Field *b)
{
    return difference_above(a, b, 4);
}

/* For a tight b. */
static inline Field
small_difference(const Field *a, const Field *b)
{
    return difference_above(a, b, 2);
}

/* Carries of a product, tight: no column is above 2^115, and the last, of which 19 times the carry is taken, 2^111. */
static inline Field
carried(Wide c0, Wide c1, Wide c2, Wide c3, Wide c4)
{
    Field out;
    c1 += (uint64_t)(c0 >> LIMB_BITS);
    c2 += (uint64_t)(c1 >> LIMB_BITS);
    c3 += (uint64_t)(c2 >> LIMB_BITS);
    c4 += (uint64_t)(c3 >> LIMB_BITS);
    uint64_t first = ((uint64_t)c0 & LIMB_MASK) + 19 * (uint64_t)(c4 >> LIMB_BITS);
    out.limb[0] = first & LIMB_MASK;
    out.limb[1] = ((uint64_t)c1 & LIMB_MASK) + (first >> LIMB_BITS);
    out.limb[2] = (uint64_t)c2 & LIMB_MASK;
    out.limb[3] = (uint64_t)c3 & LIMB_MASK;
    out.limb[4] = (uint64_t)c4 & LIMB_MASK;
    return out;
}

static inline Field
product(const Field *a, const Field *b)
{
    const uint64_t a0 = a->limb[0], a1 = a->limb[1], a2 = a->limb[2], a3 = a->limb[3], a4 = a->limb[4];
    const uint64_t b0 = b->limb[0], b1 = b->limb[1], b2 = b->limb[2], b3 = b->limb[3], b4 = b->limb[4];
    const uint64_t b1_19 = 19 * b1, b2_19 = 19 * b2, b3_19 = 19 * b3, b4_19 = 19 * b4;

    return carried(
        (Wide)a0 * b0 + (Wide)a1 * b4_19 + (Wide)a2 * b3_19 + (Wide)a3 * b2_19 + (Wide)a4 * b1_19,
        (Wide)a0 * b1 + (Wide)a1 * b0 + (Wide)a2 * b4_19 + (Wide)a3 * b3_19 + (Wide)a4 * b2_19,
        (Wide)a0 * b2 + (Wide)a1 * b1 + (Wide)a2 * b0 + (Wide)a3 * b4_19 + (Wide)a4 * b3_19,
        (Wide)a0 * b3 + (Wide)a1 * b2 + (Wide)a2 * b1 + (Wide)a3 * b0 + (Wide)a4 * b4_19,
        (Wide)a0 * b4 + (Wide)a1 * b3 + (Wide)a2 * b2 + (Wide)a3 * b1 + (Wide)a4 * b0);
}

static inline Field
square(const Field *a)
{
    const uint64_t a0 = a->limb[0], a1 = a->limb[1], a2 = a->limb[2], a3 = a->limb[3], a4 = a->limb[4];
    const uint64_t a0_2 = 2 * a0, a1_2 = 2 * a1, a3_19 = 19 * a3, a4_19 = 19 * a4;

    return carried(
        (Wide)a0 * a0 + 2 * ((Wide)a1 * a4_19 + (Wide)a2 * a3_19),
        (Wide)a0_2 * a1 + 2 * ((Wide)a2 * a4_19) + (Wide)a3 * a3_19,
        (Wide)a0_2 * a2 + (Wide)a1 * a1 + 2 * ((Wide)a3 * a4_19),
        (Wide)a0_2 * a3 + (Wide)a1_2 * a2 + (Wide)a4 * a4_19,
        (Wide)a0_2 * a4 + (Wide)a1_2 * a3 + (Wide)a2 * a2);
}

static Field
squared(Field a, int times)
{
    while (times--)
        a = square(&a);
    return a;
}

/* a^(p - 2), which is 1 / a, and 0 for 0: p - 2 = 2^255 - 21 in binary is 250 ones, then 01011. */
static Field
inverse(const Field *a)
{
    Field power, a2 = square(a), a8 = squared(a2, 2), a9 = product(&a8, a), a11 = product(&a9, &a2);
    Field a22 = square(&a11), ones5 = product(&a22, &a9); /* a^(2^5 - 1); below, as many ones as the name says */
    power = squared(ones5, 5);
    Field ones10 = product(&power, &ones5);
    power = squared(ones10, 10);
    Field ones20 = product(&power, &ones10);
    power = squared(ones20, 20);
    Field ones40 = product(&power, &ones20);
    power = squared(ones40, 10);
    Field ones50 = product(&power, &ones10);
    power = squared(ones50, 50);
    Field ones100 = product(&power, &ones50);
    power = squared(ones100, 100);
    Field ones200 = product(&power, &ones100);
    power = squared(ones200, 50);
    Field ones250 = product(&power, &ones50);
    power = squared(ones250, 5);
    return product(&power, &a11);
}

static Field
field_of(const uint8_t bytes[FIELD_BYTES])
{
    Field out;
    out.limb[0] = little_endian(bytes) & LIMB_MASK;
    out.limb[1] = little_endian(bytes + 6) >> 3 & LIMB_MASK;
    out.limb[2] = little_endian(bytes + 12) >> 6 & LIMB_MASK;
    out.limb[3] = little_endian(bytes + 19) >> 1 & LIMB_MASK;
    out.limb[4] = little_endian(bytes + 24) >> 12 & LIMB_MASK;
    return out;
}

/* The one integer from 0 to p - 1 that a tight element stands for. */
static void
write_field(uint8_t bytes[FIELD_BYTES], const Field *a)
{
    uint64_t limb[5], carry, word[4];

    memcpy(limb, a->limb, sizeof limb);
    /* 1. Below 2^255: twice, since 19 times what stands above may carry once more. */
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            limb[i + 1] += limb[i] >> LIMB_BITS;
            limb[i] &= LIMB_MASK;
        }
        limb[0] += 19 * (limb[4] >> LIMB_BITS);
        limb[4] &= LIMB_MASK;
    }
    /* 2. p or more if and only if 19 more is 2^255 or more; then what is left of those 19 more is the number less p. */
    carry = 19;
    for (int i = 0; i < 5; i++)
        carry = (limb[i] + carry) >> LIMB_BITS;
    limb[0] += 19 * carry;
    for (int i = 0; i < 4; i++) {
        limb[i + 1] += limb[i] >> LIMB_BITS;
        limb[i] &= LIMB_MASK;
    }
    limb[4] &= LIMB_MASK;

    word[0] = limb[0] | limb[1] << 51;
    word[1] = limb[1] >> 13 | limb[2] << 38;
    word[2] = limb[2] >> 26 | limb[3] << 25;
    word[3] = limb[3] >> 39 | limb[4] << 12;
    for (int i = 0; i < FIELD_BYTES; i++)
        bytes[i] = (uint8_t)(word[i / 8] >> 8 * (i % 8));
}

/* --- points ------------------------------------------------------------------------------------------------------- */

/* (x / z, y / z), and t = x y / z; all tight. */
typedef struct {
    Field x, y, z, t;
} Point;

/* (x / z, y / t), as a formula leaves it; all loose. */
typedef struct {
    Field x, y, z, t;
} Completed;

/* A point with z = 1 as additions want it; all tight. */
typedef struct {
    Field y_plus_x, y_minus_x, xy2d;
} Addend;

static inline Point
point_of(const Completed *from)
{
    return (Point){
        product(&from->x, &from->t), product(&from->y, &from->z), product(&from->z, &from->t),
        product(&from->x, &from->y)};
}

static inline Completed
doubled(const Point *point)
{
    Field xx = square(&point->x), yy = square(&point->y), zz = square(&point->z), x_plus_y = sum(&point->x, &point->y);
    Field all = square(&x_plus_y), zz2 = sum(&zz, &zz);
    Completed out;

    out.y = sum(&yy, &xx);
    out.z = small_difference(&yy, &xx);
    out.x = difference(&all, &out.y);
    out.t = difference(&zz2, &out.z);
    return out;
}

/* The sum with a point, or with its negative: -(x, y) = (-x, y). */
static inline Completed
added(const Point *to, const Addend *addend, int negative)
{
    const Field *plus = negative ? &addend->y_minus_x : &addend->y_plus_x;
    const Field *minus = negative ? &addend->y_plus_x : &addend->y_minus_x;
    Field y_plus_x = sum(&to->y, &to->x), y_minus_x = difference(&to->y, &to->x);
    Field a = product(&y_plus_x, plus), b = product(&y_minus_x, minus), c = product(&addend->xy2d, &to->t);
    Field z2 = sum(&to->z, &to->z);
    Completed out;

    out.x = difference(&a, &b);
    out.y = sum(&a, &b);
    out.z = negative ? difference(&z2, &c) : sum(&z2, &c);
    out.t = negative ? sum(&z2, &c) : difference(&z2, &c);
    return out;
}

/* The sum of two points in any form. */
static Point
added_points(const Point *one, const Point *two)
{
    Field sum1 = sum(&one->y, &one->x), difference1 = difference(&one->y, &one->x);
    Field sum2 = sum(&two->y, &two->x), difference2 = difference(&two->y, &two->x);
    Field a = product(&sum1, &sum2), b = product(&difference1, &difference2), t2d = product(&two->t, &TWO_D);
    Field c = product(&one->t, &t2d), zz = product(&one->z, &two->z), zz2 = sum(&zz, &zz);
    Completed out = {difference(&a, &b), sum(&a, &b), sum(&zz2, &c), difference(&zz2, &c)};

    return point_of(&out);
}

/* --- multiples ---------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    /* (2 j + 1) 2^(18 k) times the point, at [k][j] */
    Addend multiples[BLOCKS][ODD_MULTIPLES];
} Multiples;

static PyObject *
Multiples_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Py_buffer x, y;
    Multiples *self = NULL;
    Point *points = NULL;
    Field *until = NULL, inverted;
    (void)kwargs;

    if (!PyArg_ParseTuple(args, "y*y*", &x, &y))
        return NULL;
    if (x.len != FIELD_BYTES || y.len != FIELD_BYTES) {
        PyErr_SetString(PyExc_ValueError, "x and y are 32 bytes each");
        goto done;
    }
    points = PyMem_Malloc(sizeof(Point) * BLOCKS * ODD_MULTIPLES);
    until = PyMem_Malloc(sizeof(Field) * BLOCKS * ODD_MULTIPLES);
    if (points == NULL || until == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    self = (Multiples *)type->tp_alloc(type, 0);
    if (self == NULL)
        goto done;

    /* 1. All multiples. */
    Point first = {field_of(x.buf), field_of(y.buf), ONE, ZERO};
    first.t = product(&first.x, &first.y);
    for (int block = 0; block < BLOCKS; block++) {
        Point *multiple = &points[block * ODD_MULTIPLES];
        Completed step = doubled(&first);
        Point twice = point_of(&step);
        multiple[0] = first;
        for (int i = 1; i < ODD_MULTIPLES; i++)
            multiple[i] = added_points(&multiple[i - 1], &twice);
        for (int bit = 0; bit < BLOCK_BITS; bit++) {
            step = doubled(&first);
            first = point_of(&step);
        }
    }
    /* 2. Their z made 1, with one inversion for all: what stands in `until` is the product of all z up to there. */
    until[0] = points[0].z;
    for (int i = 1; i < BLOCKS * ODD_MULTIPLES; i++)
        until[i] = product(&until[i - 1], &points[i].z);
    inverted = inverse(&until[BLOCKS * ODD_MULTIPLES - 1]);
    for (int i = BLOCKS * ODD_MULTIPLES - 1; i >= 0; i--) {
        Field one_over_z = i ? product(&inverted, &until[i - 1]) : inverted;
        Field affine_x = product(&points[i].x, &one_over_z), affine_y = product(&points[i].y, &one_over_z);
        Field xy = product(&affine_x, &affine_y);
        Field plus = sum(&affine_y, &affine_x), minus = small_difference(&affine_y, &affine_x);
        Addend *addend = &self->multiples[i / ODD_MULTIPLES][i % ODD_MULTIPLES];
        addend->y_plus_x = product(&plus, &ONE);
        addend->y_minus_x = product(&minus, &ONE);
        addend->xy2d = product(&xy, &TWO_D);
        inverted = product(&inverted, &points[i].z);
    }
done:
    PyMem_Free(points);
    PyMem_Free(until);
    PyBuffer_Release(&x);
    PyBuffer_Release(&y);
    return (PyObject *)self;
}

static void
Multiples_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/*
 * A scalar below 2^255 as odd digits below 2^(WINDOW - 1), of either sign, most of which are 0: it is the sum of
 * digits[i] 2^i.
 */
static void
digits_of(int8_t digits[PLACES], const uint8_t scalar[SCALAR_BYTES])
{
    uint64_t words[5] = {
        little_endian(scalar), little_endian(scalar + 8), little_endian(scalar + 16), little_endian(scalar + 24), 0};
    unsigned int carry = 0;

    memset(digits, 0, PLACES);
    for (int at = 0; at < SCALAR_BITS;) {
        uint64_t bits = words[at / 64] >> at % 64;
        if (at % 64 > 64 - WINDOW)
            bits |= words[at / 64 + 1] << (64 - at % 64);
        unsigned int window = carry + (bits & ((1 << WINDOW) - 1));
        if (window % 2 == 0) {
            at++;
            continue;
        }
        carry = window > 1 << (WINDOW - 1);
        digits[at] = (int8_t)(carry ? (int)window - (1 << WINDOW) : (int)window);
        at += WINDOW;
    }
}

static inline void
add_digit(Completed *to, const Multiples *of, int block, int digit)
{
    if (digit) {
        Point point = point_of(to);
        *to = added(&point, &of->multiples[block][(digit < 0 ? -digit : digit) / 2], digit < 0);
    }
}

static Point
sum_at(const Multiples *one, const uint8_t *scalar, const Multiples *two, const uint8_t *other_scalar)
{
    int8_t digits[PLACES], other_digits[PLACES];
    Completed all = {ZERO, ONE, ONE, ONE};

    digits_of(digits, scalar);
    digits_of(other_digits, other_scalar);
    for (int bit = BLOCK_BITS - 1; bit >= 0; bit--) {
        if (bit < BLOCK_BITS - 1) {
            Point point = point_of(&all);
            all = doubled(&point);
        }
        for (int block = 0; block < BLOCKS; block++) {
            add_digit(&all, one, block, digits[BLOCK_BITS * block + bit]);
            add_digit(&all, two, block, other_digits[BLOCK_BITS * block + bit]);
        }
    }
    return point_of(&all);
}

/* --- eight sums at once ------------------------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

/*
 * The same formulas for eight points side by side, one in each lane, by the processor's products of 52 bits (AVX-512
 * IFMA): a quarter of the time for each. Every lane is a sum of its own: nothing of one gets into another.
 *
 * So that all lanes take the same steps, digits are taken at every LANE_DIGIT_BITS bits and are all odd. Here "tight" is
 * below 2^51 + 2^15, which is what `reduced` makes of limbs below 2^61; and only what is tight may be multiplied.
 */
#define LANES 8
#define LANES_FROM 4 /* all lanes together take as long as three by themselves */
#define LANE_DIGIT_BITS (WINDOW - 1)
#define LANE_DIGITS ((SCALAR_BITS + LANE_DIGIT_BITS - 1) / LANE_DIGIT_BITS)
#define DIGITS_PER_BLOCK (BLOCK_BITS / LANE_DIGIT_BITS)
#define IN_LANES __attribute__((target("avx512f,avx512ifma")))

typedef struct {
    __m512i limb[5];
} Fields;

typedef struct {
    Fields x, y, z, t;
} Points;

typedef struct {
    Fields y_plus_x, y_minus_x, xy2d;
} Addends;

static int
has_lanes(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma");
}

IN_LANES static inline Fields
same_in_lanes(uint64_t first)
{
    Fields out = {{_mm512_set1_epi64((long long)first)}};
    for (int i = 1; i < 5; i++)
        out.limb[i] = _mm512_setzero_si512();
    return out;
}

IN_LANES static inline Fields
reduced_lanes(const Fields *a)
{
    const __m512i mask = _mm512_set1_epi64(LIMB_MASK), nineteen = _mm512_set1_epi64(19);
    __m512i above[5];
    Fields out;
    for (int i = 0; i < 5; i++)
        above[i] = _mm512_srli_epi64(a->limb[i], LIMB_BITS);
    out.limb[0] = _mm512_madd52lo_epu64(_mm512_and_si512(a->limb[0], mask), above[4], nineteen);
    for (int i = 1; i < 5; i++)
        out.limb[i] = _mm512_add_epi64(_mm512_and_si512(a->limb[i], mask), above[i - 1]);
    return out;
}

IN_LANES static inline Fields
sum_lanes(const Fields *a, const Fields *b)
{
    Fields out;
    for (int i = 0; i < 5; i++)
        out.limb[i] = _mm512_add_epi64(a->limb[i], b->limb[i]);
    return out;
}

/* As `difference_above`. */
IN_LANES static inline Fields
difference_above_lanes(const Fields *a, const Fields *b, uint64_t times)
{
    const __m512i low = _mm512_set1_epi64((long long)(times * (LIMB_MASK - 18)));
    const __m512i high = _mm512_set1_epi64((long long)(times * LIMB_MASK));
    Fields out;
    for (int i = 0; i < 5; i++)
        out.limb[i] = _mm512_sub_epi64(_mm512_add_epi64(a->limb[i], i ? high : low), b->limb[i]);
    return out;
}

/* For limbs of b of at most 3 * 2^51 + 2^17, as in a difference of tight ones. */
IN_LANES static inline Fields
difference_lanes(const Fields *a, const Fields *b)
{
    return difference_above_lanes(a, b, 4);
}

/* For a tight b. */
IN_LANES static inline Fields
small_difference_lanes(const Fields *a, const Fields *b)
{
    return difference_above_lanes(a, b, 2);
}

/*
 * A product of two limbs stands in its lower 52 bits, and what is above, which counts twice at the next limb. Columns:
 * five lower parts below 2^52 and twice five upper ones below 2^51, so below 2^56; with 19 times another, below 2^61.
 */
IN_LANES static inline Fields
product_lanes(const Fields *a, const Fields *b)
{
    __m512i lower[10], upper[10];
    Fields out;

    for (int i = 0; i < 10; i++)
        lower[i] = upper[i] = _mm512_setzero_si512();
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++)
#pragma GCC unroll 5
        for (int j = 0; j < 5; j++) {
            lower[i + j] = _mm512_madd52lo_epu64(lower[i + j], a->limb[i], b->limb[j]);
            upper[i + j + 1] = _mm512_madd52hi_epu64(upper[i + j + 1], a->limb[i], b->limb[j]);
        }
#pragma GCC unroll 10
    for (int i = 0; i < 10; i++)
        lower[i] = _mm512_add_epi64(lower[i], _mm512_slli_epi64(upper[i], 1));
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        __m512i over = lower[i + 5];
        __m512i times19 =
            _mm512_add_epi64(over, _mm512_add_epi64(_mm512_slli_epi64(over, 1), _mm512_slli_epi64(over, 4)));
        out.limb[i] = _mm512_add_epi64(lower[i], times19);
    }
    return reduced_lanes(&out);
}

/* Of a sum in the form of `Completed`, with tight coordinates. */
IN_LANES static inline Points
points_of(const Fields *x, const Fields *y, const Fields *z, const Fields *t)
{
    Fields tight_x = reduced_lanes(x), tight_y = reduced_lanes(y), tight_z = reduced_lanes(z), tight_t = reduced_lanes(t);
    return (Points){
        product_lanes(&tight_x, &tight_t), product_lanes(&tight_y, &tight_z), product_lanes(&tight_z, &tight_t),
        product_lanes(&tight_x, &tight_y)};
}

/* As `doubled`. */
IN_LANES static void
double_lanes(Points *points)
{
    Fields xx = product_lanes(&points->x, &points->x), yy = product_lanes(&points->y, &points->y);
    Fields zz = product_lanes(&points->z, &points->z), loose = sum_lanes(&points->x, &points->y);
    Fields x_plus_y = reduced_lanes(&loose), all = product_lanes(&x_plus_y, &x_plus_y), zz2 = sum_lanes(&zz, &zz);
    Fields y = sum_lanes(&yy, &xx), z = small_difference_lanes(&yy, &xx);
    Fields x = difference_lanes(&all, &y), t = difference_lanes(&zz2, &z);
    *points = points_of(&x, &y, &z, &t);
}

/* As `added`: the negative of the addend in the lanes of `negative`. */
IN_LANES static void
add_lanes(Points *points, const Addends *addends, __mmask8 negative)
{
    Fields plus, minus, z, t;
    for (int i = 0; i < 5; i++) {
        plus.limb[i] = _mm512_mask_mov_epi64(addends->y_plus_x.limb[i], negative, addends->y_minus_x.limb[i]);
        minus.limb[i] = _mm512_mask_mov_epi64(addends->y_minus_x.limb[i], negative, addends->y_plus_x.limb[i]);
    }
    Fields loose_sum = sum_lanes(&points->y, &points->x), loose = small_difference_lanes(&points->y, &points->x);
    Fields y_plus_x = reduced_lanes(&loose_sum), y_minus_x = reduced_lanes(&loose);
    Fields a = product_lanes(&y_plus_x, &plus), b = product_lanes(&y_minus_x, &minus);
    Fields c = product_lanes(&addends->xy2d, &points->t), z2 = sum_lanes(&points->z, &points->z);
    Fields more = sum_lanes(&z2, &c), less = small_difference_lanes(&z2, &c);
    for (int i = 0; i < 5; i++) {
        z.limb[i] = _mm512_mask_mov_epi64(more.limb[i], negative, less.limb[i]);
        t.limb[i] = _mm512_mask_mov_epi64(less.limb[i], negative, more.limb[i]);
    }
    Fields x = small_difference_lanes(&a, &b), y = sum_lanes(&a, &b);
    *points = points_of(&x, &y, &z, &t);
}

/* Rows of eight numbers into columns. */
IN_LANES static inline void
transpose(__m512i out[LANES], const __m512i rows[LANES])
{
    __m512i pairs[LANES], fours[LANES];
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        fours[i] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0x88);
        fours[i + 2] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 2], 0xdd);
        fours[i + 4] = _mm512_shuffle_i64x2(pairs[i + 4], pairs[i + 6], 0x88);
        fours[i + 6] = _mm512_shuffle_i64x2(pairs[i + 4], pairs[i + 6], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
        out[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
    }
}

/* One addend into each lane. */
IN_LANES static inline void
gather(Addends *out, const Addend *const from[LANES])
{
    __m512i rows[LANES], first[LANES], second[LANES];
    for (int i = 0; i < LANES; i++)
        rows[i] = _mm512_loadu_si512(from[i]);
    transpose(first, rows);
    for (int i = 0; i < LANES; i++)
        rows[i] = _mm512_maskz_loadu_epi64(0x7f, (const uint64_t *)from[i] + LANES);
    transpose(second, rows);
    for (int i = 0; i < 5; i++) {
        out->y_plus_x.limb[i] = first[i];
        out->y_minus_x.limb[i] = i < 3 ? first[i + 5] : second[i - 3];
        out->xy2d.limb[i] = second[i + 2];
    }
}

/*
 * A scalar below 2^255, made odd by one more where it is even, as odd digits of either sign below 2^LANE_DIGIT_BITS: it
 * is the sum of digits[i] 2^(LANE_DIGIT_BITS i). (Joye and Tunstall, "Exponent Recoding and Regular Exponentiation
 * Algorithms", 2009, section 3.2: an odd number less such a digit, shifted, is odd again.)
 */
static void
odd_digits_of(int8_t digits[LANE_DIGITS], const uint8_t scalar[SCALAR_BYTES])
{
    uint64_t words[5] = {
        little_endian(scalar), little_endian(scalar + 8), little_endian(scalar + 16), little_endian(scalar + 24), 0};
    for (int i = 0; i < LANE_DIGITS; i++) {
        int at = LANE_DIGIT_BITS * i, word = at / 64;
        uint64_t bits = words[word] >> at % 64;
        if (at % 64)
            bits |= words[word + 1] << (64 - at % 64);
        int digit = (int)(bits & ((2 << LANE_DIGIT_BITS) - 1)) | 1;
        digits[i] = (int8_t)(i < LANE_DIGITS - 1 ? digit - (1 << LANE_DIGIT_BITS) : digit);
    }
}

/* Add to each lane its digit's multiple of its point. */
IN_LANES static void
add_digits(Points *points, const Multiples *const of[LANES], const int8_t digits[LANES][LANE_DIGITS], int at)
{
    const Addend *from[LANES];
    __mmask8 negative = 0;
    Addends addends;

    for (int lane = 0; lane < LANES; lane++) {
        int digit = digits[lane][at];
        from[lane] = &of[lane]->multiples[at / DIGITS_PER_BLOCK][(digit < 0 ? -digit : digit) / 2];
        negative |= (__mmask8)((digit < 0) << lane);
    }
    gather(&addends, from);
    add_lanes(points, &addends, negative);
}

/* Take the point away from the lanes whose scalar was made odd by one more. */
IN_LANES static void
take_even(Points *points, const Multiples *const of[LANES], const uint8_t *const scalars[LANES])
{
    static const Addend neutral = {{{1, 0, 0, 0, 0}}, {{1, 0, 0, 0, 0}}, {{0, 0, 0, 0, 0}}};
    const Addend *from[LANES];
    Addends addends;

    for (int lane = 0; lane < LANES; lane++)
        from[lane] = scalars[lane][0] & 1 ? &neutral : &of[lane]->multiples[0][0];
    gather(&addends, from);
    add_lanes(points, &addends, 0xff);
}

/* `sum_at` for eight terms. */
IN_LANES static void
sums_at(
    Point sums[LANES], const Multiples *one, const uint8_t *const scalars[LANES], const Multiples *const others[LANES],
    const uint8_t *const other_scalars[LANES])
{
    int8_t digits[LANES][LANE_DIGITS], other_digits[LANES][LANE_DIGITS];
    const Multiples *ones[LANES];
    uint64_t limb[LANES];
    Points all = {same_in_lanes(0), same_in_lanes(1), same_in_lanes(1), same_in_lanes(0)};

    for (int lane = 0; lane < LANES; lane++) {
        ones[lane] = one;
        odd_digits_of(digits[lane], scalars[lane]);
        odd_digits_of(other_digits[lane], other_scalars[lane]);
    }
    for (int step = DIGITS_PER_BLOCK - 1; step >= 0; step--) {
        if (step < DIGITS_PER_BLOCK - 1)
            for (int bit = 0; bit < LANE_DIGIT_BITS; bit++)
                double_lanes(&all);
        for (int at = step; at < LANE_DIGITS; at += DIGITS_PER_BLOCK) {
            add_digits(&all, ones, (const int8_t(*)[LANE_DIGITS])digits, at);
            add_digits(&all, others, (const int8_t(*)[LANE_DIGITS])other_digits, at);
        }
    }
    take_even(&all, ones, scalars);
    take_even(&all, others, other_scalars);
    const Fields *from[4] = {&all.x, &all.y, &all.z, &all.t};
    for (int coordinate = 0; coordinate < 4; coordinate++)
        for (int i = 0; i < 5; i++) {
            _mm512_storeu_si512(limb, from[coordinate]->limb[i]);
            for (int lane = 0; lane < LANES; lane++)
                (&sums[lane].x)[coordinate].limb[i] = limb[lane];
        }
}

#else

#define LANES 1
#define LANES_FROM 2

static int
has_lanes(void)
{
    return 0;
}

static void
sums_at(
    Point sums[LANES], const Multiples *one, const uint8_t *const scalars[LANES], const Multiples *const others[LANES],
    const uint8_t *const other_scalars[LANES])
{
    sums[0] = sum_at(one, scalars[0], others[0], other_scalars[0]);
}

#endif

/* Its encoding, RFC 8032, section 5.1.2. */
static PyObject *
encoded(const Point *point, const Field *one_over_z)
{
    Field affine_x = product(&point->x, one_over_z), affine_y = product(&point->y, one_over_z);
    uint8_t x[FIELD_BYTES], y[FIELD_BYTES];

    write_field(x, &affine_x);
    write_field(y, &affine_y);
    y[FIELD_BYTES - 1] |= (uint8_t)((x[0] & 1) << 7);
    return PyBytes_FromStringAndSize((const char *)y, FIELD_BYTES);
}

static const uint8_t *
scalar_of(PyObject *bytes)
{
    if (!PyBytes_Check(bytes) || PyBytes_GET_SIZE(bytes) != SCALAR_BYTES ||
        (uint8_t)PyBytes_AS_STRING(bytes)[SCALAR_BYTES - 1] > 0x7f) {
        PyErr_SetString(PyExc_ValueError, "a scalar is 32 bytes, little-endian, below 2^255");
        return NULL;
    }
    return (const uint8_t *)PyBytes_AS_STRING(bytes);
}

/* The sums of terms that are known to be such. */
static void
add_up(Point *sums, const Multiples *one, PyObject *terms)
{
    const Py_ssize_t count = PyList_GET_SIZE(terms);
    const int lanes = has_lanes() ? LANES : 1;
    const uint8_t *scalars[LANES], *other_scalars[LANES];
    const Multiples *others[LANES];
    Point side_by_side[LANES];

    for (Py_ssize_t done = 0; done < count; done += lanes) {
        const int here = count - done < lanes ? (int)(count - done) : lanes;
        for (int lane = 0; lane < lanes; lane++) { /* where fewer are left, some lanes do the last one again */
            PyObject *term = PyList_GET_ITEM(terms, done + (lane < here ? lane : here - 1));
            scalars[lane] = (const uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(term, 0));
            others[lane] = (const Multiples *)PyTuple_GET_ITEM(term, 1);
            other_scalars[lane] = (const uint8_t *)PyBytes_AS_STRING(PyTuple_GET_ITEM(term, 2));
        }
        if (here < LANES_FROM)
            for (int lane = 0; lane < here; lane++)
                sums[done + lane] = sum_at(one, scalars[lane], others[lane], other_scalars[lane]);
        else {
            sums_at(side_by_side, one, scalars, others, other_scalars);
            memcpy(&sums[done], side_by_side, sizeof(Point) * here);
        }
    }
}

/* sums_of(point, terms, /): scalar times the point, and other scalar times the other point, of each of the terms. */
static PyObject *
sums_of(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyTypeObject *type = *(PyTypeObject **)PyModule_GetState(module);
    PyObject *sums = NULL;
    Point *points = NULL;
    Field *until = NULL, inverted;

    if (count != 2 || !Py_IS_TYPE(args[0], type) || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "sums_of takes a point and a list of terms");
        return NULL;
    }
    const Py_ssize_t terms = PyList_GET_SIZE(args[1]);
    if (terms == 0)
        return PyList_New(0);
    points = PyMem_Malloc(sizeof(Point) * terms);
    until = PyMem_Malloc(sizeof(Field) * terms);
    if (points == NULL || until == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < terms; i++) {
        PyObject *term = PyList_GET_ITEM(args[1], i);
        if (!PyTuple_Check(term) || PyTuple_GET_SIZE(term) != 3 || !Py_IS_TYPE(PyTuple_GET_ITEM(term, 1), type)) {
            PyErr_SetString(PyExc_TypeError, "a term is a scalar, another point, and its scalar");
            goto done;
        }
        if (scalar_of(PyTuple_GET_ITEM(term, 0)) == NULL || scalar_of(PyTuple_GET_ITEM(term, 2)) == NULL)
            goto done;
    }
    add_up(points, (const Multiples *)args[0], args[1]);
    for (Py_ssize_t i = 0; i < terms; i++)
        until[i] = i ? product(&until[i - 1], &points[i].z) : points[i].z;
    sums = PyList_New(terms);
    if (sums == NULL)
        goto done;
    inverted = inverse(&until[terms - 1]);
    for (Py_ssize_t i = terms - 1; i >= 0; i--) {
        Field one_over_z = i ? product(&inverted, &until[i - 1]) : inverted;
        PyObject *sum = encoded(&points[i], &one_over_z);
        if (sum == NULL) {
            Py_CLEAR(sums);
            goto done;
        }
        PyList_SET_ITEM(sums, i, sum);
        inverted = product(&inverted, &points[i].z);
    }
done:
    PyMem_Free(points);
    PyMem_Free(until);
    return sums;
}

/* --- the module --------------------------------------------------------------------------------------------------- */

static PyType_Slot Multiples_slots[] = {
    {Py_tp_new, Multiples_new},
    {Py_tp_dealloc, Multiples_dealloc},
    {Py_tp_doc, "Multiples(x, y, /)\n--\n\nMultiples of a point of edwards25519, whose coordinates are 32 bytes each."},
    {0, NULL},
};

static PyType_Spec Multiples_spec = {
    .name = "meterproof_schemas._edwards25519.Multiples",
    .basicsize = sizeof(Multiples),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Multiples_slots,
};

static int
exec_module(PyObject *module)
{
    PyObject **type = PyModule_GetState(module);

    *type = PyType_FromModuleAndSpec(module, &Multiples_spec, NULL);
    return *type == NULL ? -1 : PyModule_AddObjectRef(module, "Multiples", *type);
}

static int
traverse_module(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(*(PyObject **)PyModule_GetState(module));
    return 0;
}

static int
clear_module(PyObject *module)
{
    Py_CLEAR(*(PyObject **)PyModule_GetState(module));
    return 0;
}

static PyMethodDef methods[] = {
    {"sums_of", (PyCFunction)(void (*)(void))sums_of, METH_FASTCALL,
     "sums_of(point, terms, /)\n--\n\nThe sum of two multiples for each of the terms, as 32 bytes."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meterproof_schemas._edwards25519",
    .m_size = sizeof(PyObject *),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
};

PyMODINIT_FUNC
PyInit__edwards25519(void)
{
    return PyModuleDef_Init(&definition);
}
