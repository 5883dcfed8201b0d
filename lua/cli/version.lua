--- sallyport version
local report = require "cli.report"

return {
  { words = "version", max = 0, homeless = true, summary = "this program's version",
    help = [[
Prints the version, and the engines of TLS: sallyport help network.

example:
  sallyport version
]],
    run = function(_, _, ctx)
      local openssl, why = ctx.host.openssl()
      ctx.out(ctx.json and report.json { version = ctx.host.version, built = report.time(ctx.host.build_time), openssl = openssl }
        or ("sallyport %s\nTLS: BearSSL (TLS 1.2)%s\n"):format(ctx.host.version, openssl and
          (", OpenSSL %s of this system (TLS 1.3) as upstream-tls and agent-tls say"):format(openssl) or "; no OpenSSL for TLS 1.3: " .. why))
      return 0
    end },
}
