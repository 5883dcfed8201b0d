--- sallyport ca
local db = require "cli.db"
local home = require "cli.home"
local report = require "cli.report"

return {
  { words = "ca", max = 0, summary = "the certificate that clients are to trust",
    options = { { name = "path", help = "print the path of its file instead" },
      { name = "bundle", help = "with --path: the file with the system's roots and ours" } },
    help = [[
Prints our CA's certificate, PEM. Its private key stays sealed in the store. Clients find it in their folder
(the setting `public`) too, and at http://PROXY/ca.pem.

examples:
  sallyport ca > sallyport-ca.pem
  curl --cacert "$(sallyport ca --path)" …
  keytool -importcert -alias sallyport -file "$(sallyport ca --path)" -keystore trust.jks
]],
    run = function(_, opt, ctx)
      db.open(ctx)
      local paths = home.client_files(ctx)
      local ca = db.peek("meta", "ca", "the certificate authority")
      if ctx.json then
        ctx.out(report.json { file = paths.ca, bundle = paths.bundle, sha256 = ca.sha256,
          not_after = report.time(ca.not_after) })
      elseif opt.path or opt.bundle then
        ctx.out((opt.bundle and paths.bundle or paths.ca) .. "\n")
      else
        ctx.out(ca.pem)
        ctx.note(("valid until %s, SHA-256 %s, kept in %s"):format(report.time(ca.not_after), ca.sha256, paths.ca))
      end
      return 0
    end },
}
