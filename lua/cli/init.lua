--- sallyport init
local home = require "cli.home"

return {
  { words = "init", max = 0, summary = "make the data directory, its key and its CA",
    help = [[
Makes the data directory (mode 0700): the sealed store, the key file that opens it, and the
certificate authority that clients are to trust. `sallyport serve` does the same where there is none.
Running it again changes nothing.

Whoever can read the data directory with its key file has every credential: keep agents out of it,
and keep a copy of the key file apart from backups.

examples:
  sallyport init
  sallyport --home /var/lib/sallyport init
]],
    run = function(_, _, ctx)
      local made, paths = home.make(ctx)
      if not made then
        ctx.note(("%s is there already; nothing was changed."):format(ctx.home))
        return 0
      end
      ctx.note(("Made %s.\n  key file: %s/key   (without it the store cannot be read: keep a copy elsewhere)\n"
        .. "  for clients: %s\n\nNext:\n  %s serve\n%s"):format(
        ctx.home, ctx.home, paths.ca, home.command(ctx), home.next_steps(ctx)))
      return 0
    end },
}
