--- sallyport mcp add, import
local db = require "cli.db"
local fields = require "cli.fields"
local mcp = require "mcp"
local records = require "records"
local report = require "cli.report"
local tls = require "cli.tls"

local TYPE = "oauth_authorization_code"

local function sentence(code, detail, who) return report.clean(mcp.sentence(code, detail and tostring(detail), who)) end

local function environment(ctx, addresses, auth_addresses)
  local ok, why = require("cli.outside").configure(ctx)
  if not ok then report.fail(why) end
  local env
  local function request(spec, deadline)       -- of all hosts, the operator named the server's own
    spec.exact = require("http").parse_url(spec.url).host == env.host
    return require("route").client.request(spec, deadline)
  end
  env = {
    client = { request = request }, time = require "time", http = require "http", json = require "json",
    addresses = addresses, auth_addresses = auth_addresses,
  }
  return env
end

local function checked(list, check, option)
  local out = {}
  for i, text in ipairs(list or {}) do
    local value, why = check(text)
    if value == nil then report.usage(("--%s: %s"):format(option, why)) end
    out[i] = value
  end
  return #out > 0 and out or nil
end

-- ---- discovery and registration ------------------------------------------------------------------

local function key_hint(name, env, text)
  local url = env.http.parse_url(text)
  return ("if it takes a key: sallyport credential add %s --type bearer --host %s%s"):format(name, url.host,
    url.port ~= 443 and " --port " .. url.port or "")
end

local function discover(env, ctx, url, name)
  ctx.note(("Asking %s how to sign in."):format(report.clean(url)))
  local found, code, detail, who = mcp.discover(env, url)
  if found then
    if found.guessed then
      ctx.note(("It publishes no metadata: %s/authorize, /token and /register are taken, as MCP's revision 2025-03-26 has it."):format(
        report.clean(found.issuer)))
    end
    return found
  end
  local hint
  if code == "open" then
    local at = env.http.parse_url(url)
    hint = ("it needs no credential: sallyport domain add default %s --method GET --method POST --method DELETE%s"):format(at.host,
      at.port ~= 443 and " --port " .. at.port or "")
  elseif code == "not_url" and not url:find("://", 1, true) then
    hint = ("sallyport mcp add %s %s"):format(name, require("env").quote("https://" .. report.clean(url)))
  elseif code == "no_challenge" or code == "refused" then
    hint = key_hint(name, env, url)
  end
  report.fail(("%s cannot be added: %s"):format(report.clean(url), sentence(code, detail, who)), hint)
end

-- A loopback address for the callback: a port that is free now. Servers that compare the whole address (RFC 8252 7.3
-- tells them not to compare the port) meet the same one at the next `connect`.
local function redirect(ctx)
  local bound, port = ctx.host.listen { address = "127.0.0.1", port = 0, handler = function() end }
  if not bound then report.fail(("no port can be had on 127.0.0.1: %s"):format(port)) end
  ctx.host.listen_close()
  return ("http://127.0.0.1:%d/callback"):format(port)
end

local function register(env, found, spec, name)
  local client, code, detail, who = mcp.register(env, found, spec)
  if client then return client end
  if code == "no_challenge" then
    report.fail(("%s cannot be added: %s"):format(report.clean(found.url), sentence(code)), key_hint(name, env, found.url))
  end
  local hint = code == "no_client"
    and ("register a client with %s (redirect address %s), then name it: client_id=… and, if it has one, client_secret=@FILE%s")
      :format(report.clean(found.issuer), spec.redirect,
        found.meta.client_id_metadata_document_supported == true and "; or --client-metadata-url URL" or "")
    or "a client that you registered can be named: client_id=… client_secret=@FILE"
  report.fail(("no client for %s: %s"):format(report.clean(found.url), sentence(code, detail, who)), hint)
end

-- ---- the credential ------------------------------------------------------------------------------

-- Where the token may go: the server's own path, or all of an SSE server, which names further paths as it goes.
local function scope_of(found, plain)
  local url = found.target
  plain.hosts, plain.ports = { url.host }, { url.port }
  if not found.sse and url.path ~= "/" then
    local path, why = records.path(url.path)
    if not path then
      report.fail(("%s cannot be added: %s"):format(report.clean(found.url), why), "--sse: its account goes to its whole origin")
    end
    plain.paths = { path }
  end
  plain.plain_http = url.scheme == "http" or nil
  if found.own then
    plain.addresses = plain.addresses or {}
    plain.addresses[#plain.addresses + 1] = "127.0.0.0/8"
    plain.addresses[#plain.addresses + 1] = "::1/128"
  end
end

-- What the server says, in the fields that it may decide: whatever stood there before goes. `into`, in the shape of
-- fields.read, is what the operator typed, or what is kept.
local SAID = { "authorization_url", "token_url", "revocation_url", "device_authorization_url", "issuer", "require_iss",
  "client_id", "auth_method", "resource", "redirect_uri" }

local function lay(into, found, client, uri)
  local said = mcp.fields(found, client, uri)
  for _, name in ipairs(SAID) do into.values[name] = said[name] end
  into.values.client_secret = client.secret
  return said.scopes
end

-- The record's members and secrets.
local function compose(plain, found, client, into, auth_addresses)
  local policy = require "policy"
  local pol, why = require("policy_store").load(TYPE)
  if not pol then report.fail(("the type '%s' cannot be used: %s"):format(TYPE, tostring(why))) end
  local ok, field, message = policy.check_credential(pol, into.values)
  if not ok then report.fail(("what the server says does not fit: %s %s"):format(field or "", tostring(message))) end
  local secrets, headers = nil, {}
  plain.fields, plain.split, secrets = fields.parts(policy.fields(pol), into.values)
  plain.headers = next(into.headers) and into.headers or nil
  for sealed, handle in pairs(into.sealed) do
    secrets[sealed] = handle
    headers[#headers + 1] = sealed:match("^h/(.+)$")
  end
  table.sort(headers)
  plain.secret_headers = #headers > 0 and headers or nil
  tls.check(plain, secrets)
  -- scopes: what the server asked for, to tell it from the operator's own choice when it is asked again.
  plain.mcp = { url = found.url, issuer = found.issuer, how = client.how, sse = found.sse or nil, scopes = found.scopes,
    own = found.own or nil, auth_addresses = auth_addresses }
  return secrets
end

-- Of the members that every type has, those that mean something here: an agent needs no variable and no placeholder.
local function common(typed, plain)
  if typed.env or typed.placeholder then report.usage("an MCP server's account needs no variable in the sandbox") end
  plain.mint, plain.client_cert, plain.ca = typed.mint, typed.client_cert, typed.ca
  plain.tls = typed.tls == "legacy" and "legacy" or nil
end

local function entry_of(name, record)
  return { mcpServers = { [name] = { type = record.mcp.sse and "sse" or "http", url = record.mcp.url } } }
end

local function connect(name, opt, ctx)
  return require("cli.sign_in").connect(ctx, name, { no_browser = opt.no_browser, code_from_terminal = opt.code_from_terminal })
end

local function add(args, opt, ctx)
  local name, why = records.name(args[1])
  if not name then report.usage(why) end
  db.open(ctx)
  local there = db.peek("credential", name, "the credential")
  if there then
    local pol = require("policy_store").load(there.type)
    report.fail(("there is a credential '%s' already"):format(name), pol and pol.connect
      and ("sallyport connect %s signs in again"):format(name) or "give this one another name")
  end
  local pol = require("policy_store").load(TYPE)
  local typed = fields.read(ctx, pol and require("policy").fields(pol) or {}, table.move(args, 3, #args, 1, {}))
  local plain = { name = name, type = TYPE, enabled = true, bundles = checked(opt.bundle, records.name, "bundle") or { "default" },
    addresses = checked(opt.address, records.cidr, "address") }
  common(typed, plain)
  for _, b in ipairs(plain.bundles) do db.need("bundle", b) end
  local auth_addresses = checked(opt.auth_address, records.cidr, "auth-address")
  local env = environment(ctx, plain.addresses, auth_addresses)
  local found = discover(env, ctx, args[2], name)
  found.sse = found.sse or opt.sse
  scope_of(found, plain)                  -- before anything is registered
  local uri = typed.values.redirect_uri or redirect(ctx)
  local client = register(env, found, {
    redirect = uri, client_id = typed.values.client_id, has_secret = typed.values.client_secret ~= nil,
    client_metadata_url = opt.client_metadata_url,
  }, name)
  local into = { values = {}, headers = typed.headers, sealed = typed.sealed }
  into.values.scopes = lay(into, found, client, uri)
  for field, value in pairs(typed.values) do into.values[field] = value end     -- what the operator typed comes first
  local secrets = compose(plain, found, client, into, auth_addresses)
  plain.created = require("time").wall()
  db.change(function()
    plain.order = require("store").generation()
    return { { op = "put", db = "credential", key = name, version = 0, plain = plain, secrets = secrets } }
  end)
  ctx.note(("Kept '%s' for %s%s; its authorization server is %s."):format(name, plain.hosts[1],
    plain.paths and plain.paths[1] or "", report.clean(found.issuer)))
  local done = connect(name, opt, ctx)
  if found.own then
    ctx.note("note: NO_PROXY, as `sallyport env` sets it, keeps clients from using the proxy for this machine's own names. The "
      .. "client must reach this server through it: start it without NO_PROXY, or name the server otherwise.")
  end
  local answer = entry_of(name, plain)
  answer.credential = require("cli.shape").credential_named(name)
  report.answer(ctx, answer)
  ctx.note("For the agent's .mcp.json:")
  ctx.out(require("json").encode(entry_of(name, plain), { indent = 2 }) .. "\n")
  return done
end

--- Before a further consent: is the authorization server still the one that the client is known to? A client of ours is
-- registered anew where it has moved, or no longer knows us; one that somebody registered by hand is theirs to see to.
local function renew(ctx, name)
  local record = db.need("credential", name)
  local state = require("store").peek("state", name) or {}
  local env = environment(ctx, record.addresses, record.mcp.auth_addresses)
  local found, code, detail, who = mcp.discover(env, record.mcp.url)
  if not found then
    -- It need not answer for a consent that its authorization server gives.
    ctx.note(("note: %s: %s"):format(report.clean(record.mcp.url), sentence(code, detail, who)))
    return
  end
  local moved = found.issuer ~= record.mcp.issuer
  local unknown = state.last_error == "invalid_client" or state.last_error == "unauthorized_client"
  if not moved and not (unknown and record.mcp.how == "registered") then return end
  if record.mcp.how == "given" then
    report.fail(("the authorization server of '%s' is now %s; its client was registered with %s"):format(name,
      report.clean(found.issuer), report.clean(record.mcp.issuer)), "remove it, and add it again with a client_id of that server")
  end
  local uri = record.fields.redirect_uri
  local client = register(env, found, { redirect = uri,
    client_metadata_url = record.mcp.how == "metadata" and record.fields.client_id or nil }, name)
  db.change(function()
    local now, why = require("store").get("credential", name)
    if not now then report.fail(("the credential cannot be read: %s"):format(tostring(why)), "remove it and add it again") end
    local plain, into = db.plain(now), fields.kept(now)
    local before = into.values
    local kept_id, kept_token, kept_revocation = before.client_id, before.token_url, before.revocation_url
    local scopes = lay(into, found, client, uri)
    -- Then the grant is still good, and to be revoked where it was given: the MCP server, which names the others, could
    -- have its refresh token sent to itself.
    if before.client_id == kept_id and before.token_url == kept_token then before.revocation_url = kept_revocation end
    found.sse = found.sse or plain.mcp.sse
    local had = table.concat(into.values.scopes or {}, " ")
    if had == table.concat(plain.mcp.scopes or {}, " ") then into.values.scopes = scopes end
    local secrets = compose(plain, found, client, into, plain.mcp.auth_addresses)
    return { { op = "put", db = "credential", key = name, version = now.version, plain = plain, secrets = secrets } }
  end)
  ctx.note(("Registered '%s' anew with %s."):format(name, report.clean(found.issuer)))
end

return {
  renew = renew,
  { words = "mcp add", args = "NAME URL [FIELD=VALUE …]", min = 2, fields = true,
    summary = "an MCP server that asks for OAuth: find its server, register, sign in",
    options = {
      { name = "bundle", arg = "BUNDLE", many = true, help = "which bundles hold it; `default` unless named" },
      { name = "client-metadata-url", arg = "URL", help = "a client ID metadata document that you host, for servers that take one" },
      { name = "sse", help = "an HTTP+SSE server: its whole origin, not its path alone" },
      { name = "address", arg = "CIDR", many = true, help = "its host may resolve to this private range" },
      { name = "auth-address", arg = "CIDR", many = true, help = "its authorization server may, which its metadata names" },
      { name = "no-browser", help = "print the address, open nothing" },
      { name = "code-from-terminal", help = "paste the address that the browser ended on: for a box without one" },
    },
    help = [[
Finds out how the server wants its clients to sign in (RFC 9728, RFC 8414), registers a client, asks you for consent
in the browser, and keeps the account as a credential for that server's host and path. Agents reach the server
through Sallyport without any token; what to put into their .mcp.json is printed last.

A client comes, in this order, from you (client_id=…, client_secret=@FILE), from a metadata document that you host
(--client-metadata-url), or from the server's own registration (RFC 7591). scopes="a b" asks for others than the
server names. The server must offer PKCE with S256.

examples:
  sallyport mcp add linear https://mcp.linear.app/mcp
  sallyport mcp add tracker https://mcp.example.com/mcp --bundle work client_id=abc client_secret=@secret.txt
  sallyport mcp add wiki https://mcp.internal/mcp --address 10.0.0.0/8 --auth-address 10.20.0.7/32
  sallyport mcp add box http://localhost:3000/mcp --no-browser
]], run = add },
  require "cli.mcp_import",
}
