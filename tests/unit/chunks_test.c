/* Chunk-signed bodies: AWS's own examples, every split, every prefix, every malformed line by its name. The
 * verifier below is the documentation's text in other words: it shares no code with the filter. */
#include PROXY_C
#include "guard.h"

#define SIG "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF"
#define HEAD(size) size ";chunk-signature=" SIG "\r\n"
#define LAST HEAD("0")
#define CRC "x-amz-checksum-crc32c:sOO8/Q=="
#define SIGNED "x-amz-trailer-signature:" SIG "\r\n\r\n"

static struct filter *
new_filter(bool trailer)
{
	return trailer ? filter_sigv4_trailer_example() : filter_sigv4_example();
}

/* Feeds `in` in reads of `step` bytes, each before a guard page. -1: refused. Else `out` holds what came out. */
static int
feed(struct filter *f, struct slice in, size_t step, bool whole, struct buf *out)
{
	size_t at = 0;

	buf_clear(out);
	do {
		size_t n = in.n - at < step ? in.n - at : step;
		bool end = whole && at == in.n;
		struct slice rest = {guard_copy(in.p + at, n), n};

		do {
			struct slice piece = SLICE("");
			ssize_t took = f->class->run(f, rest, end, &piece);

			if (took < 0)
				return -1;
			assert((size_t)took <= rest.n && piece.n <= PEER_PIECE);
			rest.p += took;
			rest.n -= (size_t)took;
			if (!buf_addv(out, piece))
				abort();
		} while (rest.n != 0 || f->more || (end && !f->ended));
		if (end)
			return 0;
		at += n;
	} while (whole || at != in.n);
	return 0;
}

static int
run(bool trailer, struct slice in, size_t step, bool whole, struct buf *out, const struct filter_fault **why)
{
	struct filter *f = new_filter(trailer);
	int r = feed(f, in, step, whole, out);

	*why = f->fault;
	filter_free(f);
	return r;
}

/* -- AWS's examples: a chunk of 64 KiB, one of 1 KiB, all "a" */
static const struct { bool trailer; const char *signature[4]; } examples[] = {
	{false, {"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
	    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
	    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", NULL}},
	{true, {"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
	    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
	    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
	    "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"}},
};

static void
example_body(struct buf *b, size_t i, bool ours)
{
	static char data[65536];
	const char *const *sig = examples[i].signature;

	memset(data, 'a', sizeof data);
	buf_init(b, 128 * 1024);
	buf_addf(b, "10000;chunk-signature=%s\r\n", ours ? sig[0] : SIG);
	buf_add(b, data, 65536);
	buf_addf(b, "\r\n400;chunk-signature=%s\r\n", ours ? sig[1] : SIG);
	buf_add(b, data, 1024);
	buf_addf(b, "\r\n0;chunk-signature=%s\r\n", ours ? sig[2] : SIG);
	if (examples[i].trailer)
		buf_addf(b, CRC "\r\nx-amz-trailer-signature:%s\r\n", ours ? sig[3] : SIG);
	buf_adds(b, "\r\n");
}

static void
test_examples(void)
{
	static const size_t steps[] = {1, 7, 84, 85, 86, 87, 4096, 16384, 65536, 1 << 17};
	const struct filter_fault *why;

	for (size_t i = 0; i < COUNT(examples); i++) {
		struct buf in, want, out;
		bool ok = true;

		example_body(&in, i, false);
		example_body(&want, i, true);
		buf_init(&out, 128 * 1024);
		for (size_t s = 0; s < COUNT(steps); s++)
			ok = ok && run(examples[i].trailer, buf_slice(&in), steps[s], true, &out, &why) == 0 &&
			    slice_eq(buf_slice(&out), buf_slice(&want));
		test_result(ok, examples[i].trailer ? "AWS's example with a trailer" : "AWS's example of signed chunks", "other bytes came out");
		buf_free(&in);
		buf_free(&want);
		buf_free(&out);
	}
}

/* -- small bodies that are taken: at every read size, and never before they are whole */
static const struct { const char *name; bool trailer; struct slice in; } good[] = {
	{"nothing but the last chunk", false, SLICE(LAST "\r\n")},
	{"one chunk", false, SLICE(HEAD("5") "hello\r\n" LAST "\r\n")},
	{"chunks of many sizes", false, SLICE(HEAD("1") "h\r\n" HEAD("a") "0123456789\r\n" HEAD("2") "\r\n\r\n" LAST "\r\n")},
	{"sizes in capitals and with zeros before", false, SLICE(HEAD("00000A") "0123456789\r\n" HEAD("B") "0123456789a\r\n" HEAD("0000000000000000") "\r\n")},
	{"data that looks like a chunk", false, SLICE(HEAD("54") HEAD("2") "\r\n" LAST "\r\n")},
	{"a trailer", true, SLICE(HEAD("5") "hello\r\n" LAST CRC "\r\n" SIGNED)},
	{"a trailer as AWS printed it once and minio-go sends it", true, SLICE(HEAD("5") "hello\r\n" LAST CRC "\n\r\n" SIGNED)},
	{"several trailers", true, SLICE(LAST "x-amz-b:2\r\nx-amz-a:1\r\nx-amz:0\r\n" SIGNED)},
	{"a trailer behind no data", true, SLICE(LAST CRC "\r\n" SIGNED)},
};

/* The body's signatures, each computed from the data as the documentation has it, against those that stand there. */
static bool
verify_piece(char last[65], const char *kind, struct slice data, const char *stands)
{
	static const struct slice key = {"\xdb\xb8\x93\xac\xc0\x10\x96\x49\x18\xf1\xfd\x43\x3a\xdd\x87\xc7"
	    "\x0e\x8b\x0d\xb6\xbe\x30\xc1\xfb\xea\xfe\xfa\x5e\xc6\xba\x83\x78", 32};
	char text[512], hex[65] = "";
	unsigned char d[32];
	struct slice part;

	sign_digest(SIGN_SHA256, data, d);
	hex_encode(hex, d, 32);
	part = (struct slice){text, (size_t)snprintf(text, sizeof text,
	    "AWS4-HMAC-SHA256-%s\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n%s\n%s%s", kind, last,
	    strcmp(kind, "PAYLOAD") == 0 ? "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n" : "", hex)};
	sign_hmac(SIGN_SHA256, key, &part, 1, d);
	hex_encode(last, d, 32);
	return memcmp(last, stands, 64) == 0;
}

static bool
verify(struct slice body, bool trailer, const char *canonical)
{
	char last[65];
	struct sigv4_chain chain;

	sigv4_chain_example(&chain, trailer);
	memcpy(last, chain.last, 65);
	for (;;) {
		size_t size = strtoul(body.p, NULL, 16), head = (size_t)((const char *)memchr(body.p, '\n', body.n) - body.p) + 1;

		if (!verify_piece(last, "PAYLOAD", (struct slice){body.p + head, size}, body.p + head - 66))
			return false;
		body = (struct slice){body.p + head + size, body.n - head - size};
		if (size == 0)
			break;
		body = (struct slice){body.p + 2, body.n - 2};
	}
	return !trailer || verify_piece(last, "TRAILER", slice_of(canonical), body.p + body.n - 68);
}

static const char *
canonical(struct slice in)
{
	return memmem(in.p, in.n, "x-amz-b:", 8) != NULL ? "x-amz:0\nx-amz-a:1\nx-amz-b:2\n" : CRC "\n";
}

static void
test_good(void)
{
	const struct filter_fault *why;
	struct buf out;

	buf_init(&out, 4096);
	for (size_t i = 0; i < COUNT(good); i++) {
		struct slice in = good[i].in;
		const char *bad = NULL;

		for (size_t step = 1; step <= in.n && bad == NULL; step++)
			if (run(good[i].trailer, in, step, true, &out, &why) != 0)
				bad = "refused";
			else if (out.n != in.n || !verify(buf_slice(&out), good[i].trailer, canonical(in)))
				bad = "wrong signatures";
		for (size_t n = 0; n < in.n && bad == NULL; n++)
			if (run(good[i].trailer, (struct slice){in.p, n}, 64, false, &out, &why) != 0)
				bad = "a prefix is refused";
			else if (run(good[i].trailer, (struct slice){in.p, n}, 64, true, &out, &why) == 0)
				bad = "a prefix is taken for the whole";
		test_result(bad == NULL, good[i].name, "%s", bad);
	}
	buf_free(&out);
}

/* -- what is refused */
static const struct { const char *name; bool trailer; struct slice in; int status; } refused[] = {
	{"no size", false, SLICE(HEAD("") "hello\r\n"), 400},
	{"no signature", false, SLICE("5\r\nhello\r\n0\r\n\r\n"), 400},
	{"a size that is no number", false, SLICE(HEAD("0x5") "hello\r\n"), 400},
	{"a negative size", false, SLICE(HEAD("-5") "hello\r\n"), 400},
	{"a space before the size", false, SLICE(HEAD(" 5") "hello\r\n"), 400},
	{"a space behind the size", false, SLICE(HEAD("5 ") "hello\r\n"), 400},
	{"seventeen digits", false, SLICE(HEAD("00000000000000005") "hello\r\n"), 400},
	{"a chunk over 1 MiB", false, SLICE(HEAD("100001")), 413},
	{"a chunk of all the bytes there are", false, SLICE(HEAD("ffffffffffffffff")), 413},
	{"another extension", false, SLICE("5;name=value\r\nhello\r\n"), 400},
	{"an extension beside the signature", false, SLICE("5;chunk-signature=" SIG ";a=b\r\nhello\r\n"), 400},
	{"an extension before the signature", false, SLICE("5;a=b;chunk-signature=" SIG "\r\nhello\r\n"), 400},
	{"capitals in the extension's name", false, SLICE("5;Chunk-Signature=" SIG "\r\nhello\r\n"), 400},
	{"a signature one digit short", false, SLICE("5;chunk-signature=123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF\r\nhello\r\n"), 400},
	{"a signature one digit long", false, SLICE("5;chunk-signature=0" SIG "\r\nhello\r\n"), 400},
	{"a signature that is no number", false, SLICE("5;chunk-signature=g123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\nhello\r\n"), 400},
	{"the ECDSA form's padding", false, SLICE("5;chunk-signature=" SIG "********\r\nhello\r\n"), 400},
	{"bare LF behind the size", false, SLICE("5;chunk-signature=" SIG "\nhello\r\n"), 400},
	{"no line end at all", false, SLICE("5;chunk-signature=" SIG SIG SIG), 400},
	{"less data than the size says", false, SLICE(HEAD("5") "hell\r\n" LAST "\r\n"), 400},
	{"more data than the size says", false, SLICE(HEAD("5") "helloo\r\n" LAST "\r\n"), 400},
	{"bare LF behind the data", false, SLICE(HEAD("5") "hello\n" LAST "\r\n"), 400},
	{"nothing behind the data", false, SLICE(HEAD("5") "hello" LAST "\r\n"), 400},
	{"bytes behind the last chunk", false, SLICE(LAST "\r\nx"), 400},
	{"a chunk behind the last", false, SLICE(LAST "\r\n" HEAD("5") "hello\r\n"), 400},
	{"a trailer where none was announced", false, SLICE(LAST CRC "\r\n\r\n"), 400},
	{"a signed trailer where none was announced", false, SLICE(LAST CRC "\r\n" SIGNED), 400},
	{"no trailer where one was announced", true, SLICE(LAST "\r\n"), 400},
	{"a trailer without its signature", true, SLICE(LAST CRC "\r\n\r\n"), 400},
	{"a signature without a trailer", true, SLICE(LAST SIGNED), 400},
	{"a trailer behind the signature", true, SLICE(LAST CRC "\r\nx-amz-trailer-signature:" SIG "\r\nx-amz-a:1\r\n\r\n"), 400},
	{"two signatures", true, SLICE(LAST CRC "\r\nx-amz-trailer-signature:" SIG "\r\nx-amz-trailer-signature:" SIG "\r\n\r\n"), 400},
	{"a trailer twice", true, SLICE(LAST CRC "\r\n" CRC "\r\n" SIGNED), 400},
	{"a trailer twice, others between", true, SLICE(LAST CRC "\r\na:1\r\nz:1\r\n" CRC "\r\n" SIGNED), 400},
	{"nine trailers", true, SLICE(LAST "a:1\r\nb:1\r\nc:1\r\nd:1\r\ne:1\r\nf:1\r\ng:1\r\nh:1\r\ni:1\r\n" SIGNED), 400},
	{"a trailer without a colon", true, SLICE(LAST "x-amz-checksum\r\n" SIGNED), 400},
	{"a trailer without a name", true, SLICE(LAST ":1\r\n" SIGNED), 400},
	{"a trailer without a value", true, SLICE(LAST "x-amz-a:\r\n" SIGNED), 400},
	{"a trailer in capitals", true, SLICE(LAST "X-Amz-A:1\r\n" SIGNED), 400},
	{"a space behind the colon", true, SLICE(LAST "x-amz-a: 1\r\n" SIGNED), 400},
	{"a space within a value", true, SLICE(LAST "x-amz-a:1 2\r\n" SIGNED), 400},
	{"a byte over 0x7f in a value", true, SLICE(LAST "x-amz-a:\xc3\xbc\r\n" SIGNED), 400},
	{"NUL in a value", true, SLICE(LAST "x-amz-a:1\0" "2\r\n" SIGNED), 400},
	{"bare CR in a value", true, SLICE(LAST "x-amz-a:1\r2\r\n" SIGNED), 400},
	{"bare LF behind a trailer", true, SLICE(LAST CRC "\n" SIGNED), 400},
	{"an empty line before the trailers", true, SLICE(LAST "\r\n" CRC "\r\n" SIGNED), 400},
	{"LF CR LF behind the signature", true, SLICE(LAST CRC "\r\nx-amz-trailer-signature:" SIG "\n\r\n\r\n"), 400},
	{"a short trailer signature", true, SLICE(LAST CRC "\r\nx-amz-trailer-signature:0123\r\n\r\n"), 400},
	{"bytes behind the trailers", true, SLICE(LAST CRC "\r\n" SIGNED "x"), 400},
};

static void
test_refused(void)
{
	const struct filter_fault *why;
	struct buf out;

	buf_init(&out, 4096);
	for (size_t i = 0; i < COUNT(refused); i++) {
		struct slice in = refused[i].in;
		bool ok = true;

		for (size_t step = 1; step <= in.n; step++)
			ok = ok && run(refused[i].trailer, in, step, true, &out, &why) != 0 &&
			    (why != NULL ? why->status : 400) == refused[i].status;
		test_result(ok, refused[i].name, "it was taken, or refused as another");
	}
	buf_free(&out);
}

/* -- bounds */
static void
test_long_trailers(void)
{
	struct filter *f = new_filter(true);
	struct buf out, in;

	buf_init(&out, 8192);
	buf_init(&in, 8192);
	buf_adds(&in, LAST "x-amz-a:");
	while (in.n < 4096)
		buf_adds(&in, "aaaaaaaaaaaaaaaa");
	test_result(feed(f, buf_slice(&in), 100, false, &out) == -1, "trailers without an end", "they are held");
	filter_free(f);
	buf_free(&out);
	buf_free(&in);
}

static void
test_memory(void)
{
	const struct filter_fault *why;
	struct filter *f = new_filter(false);
	struct buf out, in;
	size_t peak = 0;

	buf_init(&out, 2 << 20);
	buf_init(&in, 2 << 20);
	buf_adds(&in, HEAD("100000"));
	buf_reserve(&in, 1 << 20);
	memset(in.p + in.n, 'x', 1 << 20);
	in.n += 1 << 20;
	buf_adds(&in, "\r\n");
	for (int i = 0; i < 5; i++) {
		if (feed(f, buf_slice(&in), 16384, false, &out) != 0 || out.n != in.n)
			peak = SIZE_MAX;
		peak = peak > req_bodies ? peak : req_bodies;
	}
	test_result(peak >= 1 << 20 && peak < (1 << 20) + 256 + PEER_OUT_MAX, "chunks of 1 MiB are held one at a time, and counted", "%zu", peak);
	test_result(feed(f, SLICE(LAST "\r\n"), 1000, true, &out) == 0 && req_bodies == 0,
	    "nothing is held once the body has gone", "%zu bytes are", req_bodies);
	filter_free(f);
	f = new_filter(false);
	feed(f, SLICE(HEAD("1000") "x"), 1000, false, &out);
	test_result(req_bodies > 0x1000, "a chunk that is not whole is held", "it is not");
	filter_free(f);
	test_result(req_bodies == 0, "what was held is given back", "%zu are not", req_bodies);
	req_bodies = REQ_BODIES_MAX - 1000;
	test_result(run(false, buf_slice(&in), 16384, true, &out, &why) == -1 && why != NULL && why->status == 503 &&
	    req_bodies == REQ_BODIES_MAX - 1000, "no more is held than the worker's budget", "it was");
	req_bodies = 0;
	buf_free(&in);
	buf_free(&out);
}

static void
test_wiped(void)
{
	struct filter_sigv4 *s = (struct filter_sigv4 *)new_filter(false);
	struct sigv4_chain none;
	struct buf out;

	buf_init(&out, 4096);
	memset(&none, 0, sizeof none);
	feed(&s->f, SLICE(HEAD("5") "hello\r\n"), 10, false, &out);
	filter_sigv4_wipe(&s->f);
	test_result(memcmp(&s->chain, &none, sizeof none) == 0, "the key is wiped", "it is not");
	free(s);
	buf_free(&out);
}

int
main(void)
{
	test_examples();
	test_good();
	test_refused();
	test_long_trailers();
	test_memory();
	test_wiped();
	return test_end();
}
