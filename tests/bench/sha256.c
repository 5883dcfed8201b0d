/* One SHA-256 pass of BearSSL over so many MiB, in pieces as they come from TLS: prints its CPU time per MB, in ms. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <bearssl.h>

static double
cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int
main(int argc, char **argv)
{
	static char data[1 << 20];
	long mib = argc > 1 ? atol(argv[1]) : 256;
	br_sha256_context c;
	unsigned char digest[br_sha256_SIZE];
	double began;

	memset(data, 'x', sizeof data);
	br_sha256_init(&c);
	began = cpu();
	for (long i = 0; i < mib; i++)
		for (size_t at = 0; at < sizeof data; at += 16384)
			br_sha256_update(&c, data + at, 16384);
	br_sha256_out(&c, digest);
	printf("%.4f\n", (cpu() - began) / ((double)mib * 1.048576));
	return digest[0] == 0 && mib < 0;
}
