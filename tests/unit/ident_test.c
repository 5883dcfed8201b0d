/* A credential's own TLS: the certificate it shows, its key, and what it trusts besides the roots.
 * cc -DPROXY_C='"proxy.c"' -Wno-unused-function ident_test.c -lbearssl …; needs openssl in PATH, which
 * makes the keys and certificates, in every form that it writes. */
#include PROXY_C
#include "guard.h"

static char dir[] = "/tmp/ident_test.XXXXXX";
static struct tls_trust *nobody;        /* trusts a CA that signed none of these */

static const char script[] =
    "cat >ext <<E\nbasicConstraints=critical,CA:TRUE\nE\n"
    "openssl genrsa -out rsa.key 2048 && openssl genrsa -out rsa2.key 2048\n"
    "openssl rsa -in rsa.key -traditional -out rsa.pkcs1\n"
    "openssl rsa -in rsa.key -traditional -outform DER -out bad.der\n"
    "printf 'damaged!' | dd of=bad.der bs=1 seek=$(($(wc -c <bad.der) - 220)) conv=notrunc\n"
    "{ echo '-----BEGIN RSA PRIVATE KEY-----'; openssl base64 -in bad.der; echo '-----END RSA PRIVATE KEY-----'; } >rsa.bad\n"
    "openssl rsa -in rsa.key -aes128 -passout pass:x -traditional -out rsa.old\n"
    "openssl pkcs8 -topk8 -in rsa.key -passout pass:x -out rsa.locked\n"
    "for c in prime256v1:p256 secp384r1:p384 secp521r1:p521 prime256v1:other secp256k1:k256; do\n"
    "  openssl ecparam -name ${c%:*} -genkey -out ${c#*:}.key\n"      /* with EC PARAMETERS before it */
    "  openssl pkcs8 -topk8 -nocrypt -in ${c#*:}.key -out ${c#*:}.pkcs8; done\n"
    "openssl genpkey -algorithm ed25519 -out ed.key\n"
    "for k in rsa p256 p384 p521 other k256 ed; do\n"
    "  openssl req -x509 -new -key $k.key -subj /CN=$k -days 30 -out $k.pem; done\n"
    "openssl req -x509 -new -key other.key -subj '/CN=the CA' -days 30 -out ca.pem\n"
    "openssl req -new -key p256.key -subj /CN=leaf -out leaf.csr\n"
    "openssl x509 -req -in leaf.csr -CA ca.pem -CAkey other.key -CAcreateserial -days 30 -out leaf.pem\n"
    "openssl ec -in p256.key -outform DER -out p256.der\n"
    "sed 's/$/\\r/' p256.pem >crlf.pem && sed 's/$/\\r/' p256.pkcs8 >crlf.key\n"
    "{ echo Bag Attributes; openssl x509 -in p256.pem -text; } >text.pem\n"
    "cat p256.pem p256.pkcs8 >both.pem; cat leaf.pem ca.pem >chain.pem; cat ca.pem leaf.pem >wrong.pem\n"
    "for i in 1 2 3 4 5 6 7 8 9 10; do cat p256.pem; done >ten.pem; cat ten.pem ca.pem >eleven.pem\n"
    "openssl x509 -in p256.pem -pubkey -noout >p256.pub; sed 's/END CERT/END X509 CERT/' p256.pem >end.pem\n"
    "openssl req -x509 -new -newkey rsa:1024 -nodes -keyout weak.key -subj /CN=weak -days 30 -out weak.pem\n";

static void
make_files(void)
{
	char *cmd;
	int rc;

	if (mkdtemp(dir) == NULL || asprintf(&cmd, "exec >/dev/null 2>&1; cd %s && { %s }", dir, script) < 0)
		abort();
	rc = system(cmd);
	free(cmd);
	test_result(rc == 0, "openssl makes the keys", "exit %d", rc);
}

/* A file's bytes, before a page nobody may touch where they are parsed; kept until the end. "": none. */
static struct slice
file(const char *name)
{
	static char pool[1 << 18];
	static size_t used;
	static struct { const char *name; struct slice text; } known[48];
	size_t i;
	char path[128];
	FILE *f;

	if (name == NULL || *name == '\0')
		return (struct slice){"", 0};
	for (i = 0; i < 48 && known[i].name != NULL; i++)
		if (strcmp(known[i].name, name) == 0)
			return known[i].text;
	snprintf(path, sizeof path, "%s/%s", dir, name);
	if (i == 48 || (f = fopen(path, "r")) == NULL)
		abort();
	known[i].name = name;
	known[i].text = (struct slice){pool + used, fread(pool + used, 1, sizeof pool - used, f)};
	used += known[i].text.n;
	fclose(f);
	return known[i].text;
}

/* -- what is taken and what is refused: files by name, or the fault */
static const struct {
	const char *name, *cert, *key, *ca;
	const char *field, *code;       /* NULL: taken */
} rows[] = {
	{"nothing is nothing",                      "", "", "", NULL, NULL},
	{"RSA, PKCS#8",                             "rsa.pem", "rsa.key", "", NULL, NULL},
	{"RSA, PKCS#1",                             "rsa.pem", "rsa.pkcs1", "", NULL, NULL},
	{"P-256, SEC1 behind its parameters",       "p256.pem", "p256.key", "", NULL, NULL},
	{"P-256, PKCS#8",                           "p256.pem", "p256.pkcs8", "", NULL, NULL},
	{"P-256, DER",                              "p256.pem", "p256.der", "", NULL, NULL},
	{"P-384",                                   "p384.pem", "p384.key", "", NULL, NULL},
	{"P-521",                                   "p521.pem", "p521.key", "", NULL, NULL},
	{"lines that end in CR LF",                 "crlf.pem", "crlf.key", "", NULL, NULL},
	{"text around the certificate",             "text.pem", "p256.key", "", NULL, NULL},
	{"the key's file with the certificate",     "p256.pem", "both.pem", "", NULL, NULL},
	{"a chain",                                 "chain.pem", "p256.key", "", NULL, NULL},
	{"a chain and roots",                       "chain.pem", "p256.key", "ca.pem", NULL, NULL},
	{"ten certificates",                        "ten.pem", "p256.key", "ten.pem", NULL, NULL},
	{"roots alone",                             "", "", "ca.pem", NULL, NULL},

	{"a certificate without its key",           "p256.pem", "", "", "client_key", "missing"},
	{"a key without its certificate",           "", "p256.key", "", "client_cert", "missing"},
	{"the issuer first",                        "wrong.pem", "p256.key", "", "client_key", "mismatch"},
	{"another RSA key",                         "rsa.pem", "rsa2.key", "", "client_key", "mismatch"},
	{"another P-256 key",                       "p256.pem", "other.key", "", "client_key", "mismatch"},
	{"a key on another curve",                  "p256.pem", "p384.key", "", "client_key", "mismatch"},
	{"an EC key for an RSA certificate",        "rsa.pem", "p256.key", "", "client_key", "mismatch"},
	{"an RSA key for an EC certificate",        "p256.pem", "rsa.key", "", "client_key", "mismatch"},
	{"an RSA key with a damaged part",          "rsa.pem", "rsa.bad", "", "client_key", "malformed"},
	{"a passphrase, PKCS#8",                    "rsa.pem", "rsa.locked", "", "client_key", "encrypted"},
	{"a passphrase, OpenSSL's old form",        "rsa.pem", "rsa.old", "", "client_key", "encrypted"},
	{"Ed25519",                                 "ed.pem", "ed.key", "", "client_key", "unsupported"},
	{"secp256k1",                               "k256.pem", "k256.key", "", "client_key", "unsupported"},
	{"a public key as the key",                 "p256.pem", "p256.pub", "", "client_key", "no_private_key"},
	{"a certificate as the key",                "p256.pem", "p256.pem", "", "client_key", "no_private_key"},
	{"a private key among the certificates",    "both.pem", "p256.key", "", "client_cert", "private_key"},
	{"a private key among the roots",           "", "", "both.pem", "ca", "private_key"},
	{"a public key as the certificate",         "p256.pub", "p256.key", "", "client_cert", "no_certificate"},
	{"DER as the certificate",                  "p256.der", "p256.key", "", "client_cert", "no_certificate"},
	{"a public key as the roots",               "", "", "p256.pub", "ca", "no_certificate"},
	{"roots with a key that we cannot use",     "", "", "k256.pem", "ca", "no_certificate"},
	{"a certificate that ends as another thing", "end.pem", "p256.key", "", "client_cert", "malformed"},
	{"a root that ends as another thing",       "", "", "end.pem", "ca", "malformed"},
	{"eleven certificates",                     "eleven.pem", "p256.key", "", "client_cert", "too_many"},
};

static void
test_texts(void)
{
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct ident_fault fault;
		struct tls_ident *id = ident_new(file(rows[i].cert), file(rows[i].key), file(rows[i].ca), false, &fault);
		bool ok = rows[i].code == NULL ? id != NULL :
		    id == NULL && strcmp(fault.field, rows[i].field) == 0 && strcmp(fault.code, rows[i].code) == 0;

		test_result(ok, rows[i].name, "%s %s", id != NULL ? "taken" : fault.field, id != NULL ? "" : fault.code);
		tls_ident_unref(id);
	}
}

/* The shown chain is the file's, in its order, first to last. */
static void
test_chain(void)
{
	struct ident_fault fault;
	struct tls_ident *id = ident_new(file("chain.pem"), file("p256.key"), file(""), false, &fault);
	struct slice pem = file("chain.pem");
	struct buf der;
	bool ok = id != NULL && id->chain_n == 2;

	buf_init(&der, TLS_CERT_MAX);
	for (size_t i = 0; ok && i < 2; i++)
		ok = pem_next(&pem, SLICE("BEGIN CERTIFICATE"), &(struct slice){0}, &der) == 1 &&
		    slice_eq(buf_slice(&der), (struct slice){(char *)id->chain[i].data, id->chain[i].data_len});
	test_result(ok, "the chain is shown in the file's order", "no");
	buf_free(&der);
	tls_ident_unref(id);
}

/* Every part of a text, at the end of the memory: no fault but a known one, and nothing left behind.
 * Only what has all of the key, or of the last certificate, is taken: a key's END line may be cut short. */
#define END_LINE 25     /* "-----END RSA PRIVATE KEY-----" without what BearSSL looks for */

static void
prefixes(const char *name, const char *cert, const char *key, const char *ca, int which)
{
	struct slice in[3] = {file(cert), file(key), file(ca)}, whole = in[which];
	size_t live = secret_arena.live, least = whole.n;
	struct ident_fault fault;

	for (size_t n = 1; n <= whole.n; n++) {
		struct tls_ident *id;

		in[which] = (struct slice){guard_copy(whole.p, n), n};
		if ((id = ident_new(in[0], in[1], in[2], false, &fault)) != NULL && n < least)
			least = n;
		tls_ident_unref(id);
	}
	test_result(least + END_LINE >= whole.n && secret_arena.live == live, name, "taken from %zu of %zu", least, whole.n);
}

static void
test_ident_prefixes(void)
{
	prefixes("every part of a certificate", "p256.pem", "p256.key", "", 0);
	prefixes("every part of an EC key", "p256.pem", "p256.pkcs8", "", 1);
	prefixes("every part of a DER key", "p256.pem", "p256.der", "", 1);
	prefixes("every part of an RSA key", "rsa.pem", "rsa.pkcs1", "", 1);
	prefixes("every part of the roots", "", "", "ca.pem", 2);
}

/* Each byte of a key and of a certificate changed: nothing is read beyond, nothing is left. */
static void
test_damage(void)
{
	static const char *names[] = {"p256.pem", "rsa.pkcs1", "p256.pkcs8"};
	size_t live = secret_arena.live;

	for (size_t f = 0; f < 3; f++) {
		struct slice whole = file(names[f]);

		for (size_t i = 0; i < whole.n; i++) {
			char *p = guard_copy(whole.p, whole.n);
			struct slice text = {p, whole.n};
			struct ident_fault fault;

			p[i] ^= (char)(1 + i % 7);
			tls_ident_unref(ident_new(f == 0 ? text : file(f == 1 ? "rsa.pem" : "p256.pem"),
			    f == 0 ? file("p256.key") : text, f == 0 ? text : file(""), false, &fault));
		}
	}
	test_result(secret_arena.live == live, "damaged texts leave nothing behind", "%zu", secret_arena.live - live);
}

/* The code that they are refused with; "taken". */
static const char *
ident_refused(struct slice cert, struct slice key, struct slice ca)
{
	struct ident_fault fault;
	struct tls_ident *id = ident_new(cert, key, ca, false, &fault);

	tls_ident_unref(id);
	return id != NULL ? "taken" : fault.code;
}

static void
test_sizes(void)
{
	static char text[IDENT_PEM_MAX + 1];
	const struct slice big = {text, sizeof text}, most = {text, sizeof text - 1}, none = {"", 0};
	const struct { const char *name, *code; char fill; struct slice cert, key, ca; } sizes[] = {
		{"a certificate text over the bound", "too_large", 'a', big, file("p256.key"), none},
		{"a text of roots over the bound", "too_large", 'a', none, none, big},
		{"noise up to the bound", "no_certificate", 'a', most, file("p256.key"), most},
		{"noise as the key", "not_a_key", 'a', file("p256.pem"), most, none},
		{"zeros as the key", "not_a_key", 0, file("p256.pem"), most, none},
		{"zeros as the certificate", "no_certificate", 0, most, file("p256.key"), none},
		{"zeros as pins", "no_certificate", 0, none, none, most},
	};

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		const char *code;

		memset(text, sizes[i].fill, sizeof text);
		code = ident_refused(sizes[i].cert, sizes[i].key, sizes[i].ca);
		test_result(strcmp(code, sizes[i].code) == 0, sizes[i].name, "%s", code);
	}
}

/* -- pins */
static void
test_pins(void)
{
	static const char bytes[70] = "pins:";
	size_t wrong = 0;

	for (size_t n = 0; n <= sizeof bytes; n++) {
		struct slice text = {guard_copy(bytes, n), n};
		struct ident_fault fault;
		struct tls_ident *id = ident_new(file(""), file(""), text, false, &fault);

		wrong += (id != NULL) != (n == 0 || n == 5 + 32 || n == 5 + 64) ||
		    (n != 0 && id != NULL && (!id->pinned || id->itself.n != n - 5));
		tls_ident_unref(id);
	}
	test_result(wrong == 0, "pins are 32 bytes each", "%zu lengths are judged wrongly", wrong);
}

/* -- judged: what a server shows, against what the credential trusts */
static unsigned
judge(struct tls_ident *id, const char *host, const char *shown, int64_t days, const char **why)
{
	struct tls *t = tls_connect(nobody, id, slice_of(host), 443, SLICE(""), false, ENGINE_BEARSSL, NULL, 0);
	const br_x509_class **x = (const br_x509_class **)(void *)t->verify;
	struct slice pem = file(shown);
	struct buf der;
	unsigned err, usages = 0;

	buf_init(&der, TLS_CERT_MAX);
	t->verify->now += days * 86400;
	(*x)->start_chain(x, host);
	while (pem_next(&pem, SLICE("BEGIN CERTIFICATE"), &(struct slice){0}, &der) > 0) {
		(*x)->start_cert(x, (uint32_t)der.n);
		(*x)->append(x, (unsigned char *)der.p, der.n);
		(*x)->end_cert(x);
	}
	err = (*x)->end_chain(x);
	*why = t->verify->why != NULL ? t->verify->why : "-";
	if (err == 0 && ((*x)->get_pkey(x, &usages) == NULL || usages == 0))
		err = 1000;
	buf_free(&der);
	tls_free(t);
	return err;
}

/* "cert:FILE" and "key:FILE" stand for the pins of that certificate and of its key. */
static struct slice
pin_of(const char *what)
{
	static char text[80];
	struct slice pem = file(what + (what[0] == 'c' ? 5 : 4));
	struct cert_view v;
	struct buf der;
	uint8_t h[32];

	buf_init(&der, TLS_CERT_MAX);
	if (pem_next(&pem, SLICE("BEGIN CERTIFICATE"), &(struct slice){0}, &der) != 1 || !cert_read(buf_slice(&der), &v))
		abort();
	if (what[0] == 'c')
		tls_sha256(der.p, der.n, h);
	else
		tls_sha256(v.spki.p, v.spki.n, h);
	buf_free(&der);
	memcpy(text, "pins:", 5);
	memcpy(text + 5, h, sizeof h);
	return (struct slice){text, 5 + sizeof h};
}

static const struct {
	const char *name, *ca, *shown;
	int days;               /* from now */
	unsigned err;           /* 1: any */
	const char *why;        /* NULL: any */
} verdicts[] = {
	{"self-signed, in ca: trusted as itself, whatever its name", "rsa.pem", "rsa.pem", 0, 0, NULL},
	{"so is a leaf without its issuer",          "leaf.pem", "leaf.pem", 0, 0, NULL},
	{"so is one of many",                        "eleven.pem", "ca.pem", 0, 0, NULL},
	{"its dates are judged: over",               "rsa.pem", "rsa.pem", 40, BR_ERR_X509_EXPIRED, "certificate expired"},
	{"its dates are judged: not yet",            "rsa.pem", "rsa.pem", -2, BR_ERR_X509_EXPIRED, "certificate not yet valid"},
	{"a weak key is not trusted, even so",       "weak.pem", "weak.pem", 0, BR_ERR_X509_WEAK_PUBLIC_KEY, NULL},
	{"another self-signed one is not",           "rsa.pem", "p256.pem", 0, 1, NULL},
	{"nor is it behind another",                 "rsa.pem", "wrong.pem", 0, 1, NULL},
	{"nor does the right one count in second place", "leaf.pem", "wrong.pem", 0, 1, NULL},
	{"its key alone does not count",             "other.pem", "ca.pem", 0, 1, NULL},
	{"a pinned certificate",                     "cert:rsa.pem", "rsa.pem", 0, 0, NULL},
	{"a pinned certificate outlives its dates",  "cert:rsa.pem", "rsa.pem", 40, 0, NULL},
	{"a pinned key",                             "key:p256.pem", "p256.pem", 0, 0, NULL},
	{"a pinned key in a renewed certificate",    "key:p256.pem", "leaf.pem", 0, 0, NULL},
	{"a pinned weak key",                        "key:weak.pem", "weak.pem", 0, BR_ERR_X509_WEAK_PUBLIC_KEY, NULL},
	{"another than the pinned",                  "cert:rsa.pem", "p256.pem", 0, BR_ERR_X509_NOT_TRUSTED,
	    "untrusted certificate (not the one that ca pins)"},
	{"the pinned one as an issuer",              "cert:ca.pem", "chain.pem", 0, BR_ERR_X509_NOT_TRUSTED,
	    "untrusted certificate (not the one that ca pins)"},
	{"a pinned key that we cannot use",          "cert:ed.pem", "ed.pem", 0, X509_OTHER, NULL},
	{"no certificate at all",                    "cert:rsa.pem", "", 0, BR_ERR_X509_EMPTY_CHAIN, NULL},
};

static void
test_verdicts(void)
{
	for (size_t i = 0; i < sizeof verdicts / sizeof *verdicts; i++) {
		bool pin = strchr(verdicts[i].ca, ':') != NULL;
		struct ident_fault fault;
		struct tls_ident *id = ident_new(file(""), file(""),
		    pin ? pin_of(verdicts[i].ca) : file(verdicts[i].ca), false, &fault);
		const char *why = "-";
		unsigned err = id == NULL ? 2000 : judge(id, "api.test", verdicts[i].shown, verdicts[i].days, &why);
		bool ok = verdicts[i].err == 1 ? err != 0 && err < 1000 : err == verdicts[i].err;

		test_result(ok && (verdicts[i].why == NULL || strcmp(why, verdicts[i].why) == 0),
		    verdicts[i].name, "%u %s", err, why);
		tls_ident_unref(id);
	}
}

/* -- memory and names */
static bool
arena_has(const char *p, size_t n)
{
	return memmem(secret_arena.base, secret_arena.top, p, n) != NULL;
}

/* The decoded key lies in the arena while the identity lives, and nowhere afterwards. */
static void
test_ident_wiped(void)
{
	struct ident_fault fault;
	struct tls_ident *id = ident_new(file("p256.pem"), file("p256.pkcs8"), file(""), false, &fault);
	const br_ec_private_key *ec = br_skey_decoder_get_ec((void *)id->key->p);
	size_t live = secret_arena.live;
	char x[32];

	memcpy(x, ec->x, sizeof x);
	test_result(ec->xlen == 32 && arena_has(x, 32), "the key is in the arena", "not there");
	tls_ident_ref(id);
	tls_ident_unref(id);
	test_result(arena_has(x, 32), "a reference keeps it", "gone");
	tls_ident_unref(id);
	test_result(!arena_has(x, 32) && secret_arena.live == live - 2, "the last one wipes it", "still there");
	id = ident_new(file("other.pem"), file("p256.pkcs8"), file(""), false, &fault);
	test_result(id == NULL && !arena_has(x, 32), "a key that does not fit is wiped too", "still there");
	wipe(x, sizeof x);
}

/* Connections are shared by tag: what differs in anything must differ in it. */
static void
test_names(void)
{
	static const char *of[][3] = {
		{"", "", "ca.pem"}, {"", "", "p256.pem"}, {"p256.pem", "p256.key", ""}, {"leaf.pem", "p256.key", ""},
		{"chain.pem", "p256.key", ""}, {"leaf.pem", "p256.key", "ca.pem"}, {"", "", "cert:ca.pem"}, {"", "", ""},
	};
	struct tls_ident *id[16];       /* the second half: with tls=legacy */
	struct ident_fault fault;
	size_t same = 0;

	for (size_t i = 0; i < 16; i++)
		id[i] = ident_new(file(of[i % 8][0]), file(of[i % 8][1]),
		    strchr(of[i % 8][2], ':') != NULL ? pin_of(of[i % 8][2]) : file(of[i % 8][2]), i >= 8, &fault);
	for (size_t i = 0; i < 16; i++)
		for (size_t k = 0; k < i; k++)
			same += memcmp(id[i]->tag, id[k]->tag, 32) == 0;
	test_result(same == 0, "no two identities share a tag", "%zu do", same);
	tls_ident_unref(id[7]);
	id[7] = ident_new(file("leaf.pem"), file("p256.pkcs8"), file("ca.pem"), false, &fault);
	test_result(memcmp(id[7]->tag, id[5]->tag, 32) == 0, "the same one has the same tag", "another");
	for (size_t i = 0; i < 16; i++)
		tls_ident_unref(id[i]);
}

static struct tls_trust *
trust_of_nobody(void)
{
	char path[128];
	struct buf why;
	struct tls_trust *t = trust_new();
	bool ok;

	snprintf(path, sizeof path, "%s/p384.pem", dir);
	buf_init(&why, 512);
	ok = trust_add_file(t, path, &why);
	buf_free(&why);
	return ok ? t : NULL;
}

int
main(void)
{
	char *cmd;

	setenv("LC_ALL", "C", 1);
	if (!secret_init() || !tls_init() || !tls_worker_init())
		return 1;
	make_files();
	if ((nobody = trust_of_nobody()) == NULL)
		return 1;
	test_texts();
	test_chain();
	test_sizes();
	test_pins();
	test_verdicts();
	test_ident_wiped();
	test_names();
	test_ident_prefixes();
	test_damage();
	test_result(secret_arena.live == 0, "no secret is left", "%zu", secret_arena.live);
	tls_trust_unref(nobody);
	if (asprintf(&cmd, "rm -rf %s", dir) > 0 && system(cmd) == 0)
		free(cmd);
	return test_end();
}
