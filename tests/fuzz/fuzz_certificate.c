/* Certificates: what an upstream sends as its chain, and what a file of roots may hold.
 *
 * Text is a file of roots; anything else a chain, each certificate behind two bytes of length. */
#include PROXY_C

static struct tls_trust *fuzz_trust;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct tls_trust *
trust_of(struct slice pem)
{
	struct tls_trust *t = trust_new();

	if (trust_add_pem(t, pem, NULL) && t->n != 0)
		return t;
	tls_trust_unref(t);
	return NULL;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	uint8_t room[CERT_ROOM], key[32];
	char pem[8192];
	struct slice der = tls_ca_make(room, key, clock_wall());

	(void)argc;
	(void)argv;
	if (!tls_init() || !tls_worker_init() || der.n == 0)
		abort();
	fuzz_trust = trust_of((struct slice){pem, br_pem_encode(pem, der.p, der.n, "CERTIFICATE", BR_PEM_LINE64)});
	if (fuzz_trust == NULL || fuzz_trust->n != 1)
		abort();
	return 0;
}

static void
fuzz_constraints(const struct cert_view *ca, const struct cert_view *v)
{
	struct slice names = v->names, s;
	uint8_t form;

	cert_allows(ca, FORM_DN, v->subject);
	while (der_next(&names, &form, &s, NULL))
		cert_allows(ca, form, s);
}

static void
fuzz_chain(const uint8_t *data, size_t n)
{
	struct tls *t = tls_connect(fuzz_trust, NULL, SLICE("api.test"), 443, SLICE(""), false, ENGINE_BEARSSL, NULL, 0);
	const br_x509_class **x = (const br_x509_class **)(void *)t->verify;
	struct cert_view v, before;
	bool have = false;

	(*x)->start_chain(x, "api.test");
	while (n >= 2) {
		size_t len = (size_t)(data[0] << 8 | data[1]), take = len < n - 2 ? len : n - 2;

		(*x)->start_cert(x, (uint32_t)take);
		(*x)->append(x, data + 2, take);
		(*x)->end_cert(x);
		if (cert_read((struct slice){(const char *)data + 2, take}, &v)) {
			cert_names(&v, "127.0.0.1");
			cert_names(&v, "api.test");
			fuzz_constraints(&v, &v);
			if (have)
				fuzz_constraints(&before, &v);  /* an issuer's constraints and the names of another */
			cert_signed_by(&v, &v);
			before = v;
			have = true;
		}
		data += take + 2;
		n -= take + 2;
	}
	if ((*x)->end_chain(x) == 0)
		abort();        /* nobody signed it with a key that lives in this process alone */
	tls_free(t);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n != 0 && data[0] == '-')
		tls_trust_unref(trust_of((struct slice){(const char *)data, n}));
	else
		fuzz_chain(data, n);
	return 0;
}
