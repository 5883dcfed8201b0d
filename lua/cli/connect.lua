--- sallyport connect, disconnect
local REDIRECT = require("cli.authorization").REDIRECT
local db = require "cli.db"
local mcp = require "cli.mcp"
local sign_in = require "cli.sign_in"

local function run(args, opt, ctx)
  db.open(ctx)
  local record = db.peek("credential", args[1], "the credential")
  if record and record.mcp then mcp.renew(ctx, args[1]) end
  return sign_in.connect(ctx, args[1], opt)
end

local function disconnect(args, opt, ctx) return sign_in.disconnect(ctx, args[1], opt) end

return {
  { words = "connect", args = "NAME", min = 1, max = 1, summary = "sign in to the account of an OAuth credential",
    options = {
      { name = "redirect-uri", arg = "URI", help = "as registered with the provider; else the credential's, else " .. REDIRECT },
      { name = "port", arg = "N", help = "another port on this machine; 0 picks one, where the provider allows any" },
      { name = "no-browser", help = "print the address, open nothing" },
      { name = "code-from-terminal", help = "paste the address that the browser ended on: for a box without one" },
      { name = "scope", arg = "SCOPE", many = true, help = "ask for this scope too, beside the credential's own" },
      { name = "device", help = "type a short code on another device (RFC 8628), where the server supports it" },
    },
    help = [[
Prints the address of the provider's consent page, opens a browser where there is one, waits for it to come back,
and stores the tokens. Agents then use the account without ever seeing one. Connecting again replaces the grant;
a failure leaves the old one. Where an API has asked for further scopes (`credential show` names them), it asks you
whether the consent is to ask for those too; without a terminal, --scope names them.

A redirect address of another machine cannot be waited for: then the address that the browser ended on is pasted.

examples:
  sallyport connect drive
  sallyport connect drive --no-browser --code-from-terminal
  sallyport connect tracker --redirect-uri http://localhost:8080/oauth/callback
  sallyport connect tv --device
]], run = run },
  { words = "disconnect", args = "NAME", min = 1, max = 1, summary = "revoke the grant at the server, and forget it",
    options = { { name = "force", help = "forget it here even where the server does not revoke it" } },
    help = [[
Revokes the refresh token, then the access token, at the credential's revocation_url (RFC 7009), and forgets them.
The credential itself stays: `connect` connects it again. Without a revocation_url the tokens are only forgotten
here, and it says so. Where the server fails, nothing is forgotten, unless --force.

example:
  sallyport disconnect drive
]], run = disconnect },
}
