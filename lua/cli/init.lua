--- sallyport init
local home = require "cli.home"
local records = require "records"
local report = require "cli.report"
local settings = require "cli.settings"

local public = records.setting "public"

return {
  { words = "init", max = 0, summary = "make the data directory, its key and its CA",
    options = { { name = "public", arg = public.arg, help = public.help .. "; kept as that setting" } },
    help = [[
Makes the data directory (mode 0700): the sealed store, the key file that opens it, and the
certificate authority that clients are to trust. `sallyport serve` does the same where there is none.
It makes all of it, or nothing. Running it again changes nothing.

The CA lies in a folder of its own, which agents of other users can read: beside the data directory, whose
name and -public it has, or where nothing can be made there, in it. --public names another place.

Whoever can read the data directory with its key file has every credential: keep agents out of it,
and keep a copy of the key file apart from backups.

examples:
  sallyport init
  sallyport --home /var/lib/sallyport init
  sallyport --home /data init --public /srv/sallyport-clients
]],
    run = function(_, opt, ctx)
      local named = opt.public and settings.read(ctx, public, opt.public, "--public")
      local made, paths = home.make(ctx, named, true)
      report.answer(ctx, { home = ctx.home, made = made, ca = paths and paths.ca, bundle = paths and paths.bundle })
      if not made then
        if named and named ~= home.public(ctx) then
          report.fail(("%s is there already, with another folder for clients"):format(ctx.home), "sallyport set public " .. named)
        end
        ctx.note(("%s is there already; nothing was changed."):format(ctx.home))
        return 0
      end
      ctx.note(("Made %s.\n  key file: %s/key   (without it the store cannot be read: keep a copy elsewhere)\n"
        .. "  for clients: %s\n\nNext:\n  %s serve\n%s"):format(
        ctx.home, ctx.home, paths.ca, home.command(ctx), home.next_steps(ctx)))
      local shut = home.shut(ctx, paths.ca)
      if shut then
        ctx.note(("\nnote: other users cannot enter %s: agents of theirs get the CA from http://PROXY/ca.pem,\n  or: sallyport set public DIR, a folder that they can enter"):format(shut))
      end
      return 0
    end },
}
