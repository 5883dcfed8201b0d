/* A credential's own TLS: what a person's files may hold, and then what a server shows to it.
 *
 * 'D' begins parts in DER, each behind two bytes of length: certificate, key, root, what the server shows.
 * Anything else is the texts as they are typed, with zeros between: certificate, key, ca, what is shown. */
#include PROXY_C

static struct tls_trust *fuzz_trust;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!secret_init() || !tls_init() || !tls_worker_init() || (fuzz_trust = trust_new()) == NULL)
		abort();
	return 0;
}

static void
fuzz_show(struct tls_ident *id, struct slice der)
{
	struct tls *t = tls_connect(fuzz_trust, id, SLICE("api.test"), 443, SLICE(""), false, ENGINE_BEARSSL, NULL, 0);
	const br_x509_class **x = (const br_x509_class **)(void *)t->verify;
	unsigned usages;

	(*x)->start_chain(x, "api.test");
	(*x)->start_cert(x, (uint32_t)der.n);
	(*x)->append(x, (const unsigned char *)der.p, der.n);
	(*x)->end_cert(x);
	if ((*x)->end_chain(x) == 0) {
		if (id->itself.n == 0 && id->roots == NULL)
			abort();                /* trusts nobody */
		if ((*x)->get_pkey(x, &usages) == NULL)
			abort();                /* the engine takes what is trusted without a look */
	}
	tls_free(t);
}

static struct slice
part_text(struct slice *in)
{
	const char *zero = memchr(in->p, '\0', in->n);
	struct slice one = {in->p, zero != NULL ? (size_t)(zero - in->p) : in->n};
	size_t used = one.n + (zero != NULL);

	*in = (struct slice){in->p + used, in->n - used};
	return one;
}

static struct slice
part_der(struct slice *in)
{
	struct slice one = {in->p, 0};
	size_t len;

	if (in->n < 2)
		return one;
	len = (size_t)((uint8_t)in->p[0] << 8 | (uint8_t)in->p[1]);
	one = (struct slice){in->p + 2, len < in->n - 2 ? len : in->n - 2};
	*in = (struct slice){one.p + one.n, in->n - 2 - one.n};
	return one;
}

static struct slice
pem_of(struct slice der, struct buf *b)
{
	size_t n = br_pem_encode(NULL, NULL, der.n, "CERTIFICATE", BR_PEM_LINE64);

	if (der.n == 0)
		return buf_slice(b);
	if (!buf_reserve(b, n + 1))             /* it ends with a NUL */
		abort();
	b->n = br_pem_encode(b->p, der.p, der.n, "CERTIFICATE", BR_PEM_LINE64);
	return buf_slice(b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	bool der = n != 0 && data[0] == 'D';
	struct slice in = {(const char *)data + der, n - der}, part[4];
	struct ident_fault fault;
	struct tls_ident *id;
	struct buf cert, ca;

	for (int i = 0; i < 4; i++)
		part[i] = der ? part_der(&in) : part_text(&in);
	buf_init(&cert, 4 * TLS_CERT_MAX);
	buf_init(&ca, 4 * TLS_CERT_MAX);
	id = der ? ident_new(pem_of(part[0], &cert), part[1], pem_of(part[2], &ca), false, &fault) :
	    ident_new(part[0], part[1], part[2], false, &fault);
	if (id != NULL)
		fuzz_show(id, part[3]);
	else if (fault.field == NULL || fault.code == NULL)
		abort();
	tls_ident_unref(id);
	if (secret_arena.live != 0)
		abort();                        /* a key was left behind */
	buf_free(&cert);
	buf_free(&ca);
	return 0;
}
