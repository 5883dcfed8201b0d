--- sallyport version
local report = require "cli.report"

return {
  { words = "version", max = 0, homeless = true, summary = "this program's version",
    help = [[
Prints the version.

example:
  sallyport version
]],
    run = function(_, _, ctx)
      ctx.out(ctx.json and report.json { version = ctx.host.version, built = report.time(ctx.host.build_time) }
        or ("sallyport %s\n"):format(ctx.host.version))
      return 0
    end },
}
