--- What a person's yes to a proposal (lua/proposals.lua) makes: the records of its services, and its own end, in one commit. Each record is
-- made by the command that would make it alone, with that command's checks; only its writing waits for the others'.
local db = require "cli.db"
local report = require "cli.report"
local M = {}

--- What may be typed for it: { label = "secret" | "plain" }. Tokens of an account are KEY.refresh_token and its like.
function M.labels(r)
  local out = {}
  for _, s in ipairs(r.services) do
    for key, kind in pairs(require("proposals").uses(s)) do
      out[key] = out[key] ~= "secret" and kind or "secret"
    end
  end
  for _, c in ipairs(r.credentials) do
    if c.oauth then
      out[c.key] = nil
      for _, name in ipairs { "client_secret", "access_token", "refresh_token" } do out[c.key .. "." .. name] = "secret" end
      out[c.key .. ".client_id"] = "plain"
    end
  end
  return out
end

local function oauth_of(r, key)
  for _, c in ipairs(r.credentials) do
    if c.key == key then return c.oauth end
  end
end

-- A secret that was typed; the command ends where it was not.
local function secret_of(given, key, host)
  if given[key] == nil then report.usage(("%s is missing: the secret for %s"):format(key, host),
    ("%s=@FILE, %s=-, %s=env:NAME; or --only the services without it"):format(key, key, key)) end
  return given[key]
end

-- What reads a service's secrets: the type, its fields as FIELD=VALUE, and the secrets by field.
local function oauth_fields(o, key, given, fields, typed)
  for _, name in ipairs { "authorization_url", "token_url", "client_id", "scopes", "scope_separator" } do
    if o[name] and not (name == "client_id" and given[key .. ".client_id"]) then fields[#fields + 1] = ("%s=%s"):format(name, o[name]) end
  end
  for _, name in ipairs { "client_secret", "access_token", "refresh_token" } do
    typed[name] = given[key .. "." .. name]
    fields[#fields + 1] = typed[name] ~= nil and name .. "=-" or nil
  end
  if typed.client_secret then fields[#fields + 1] = "auth_method=" .. o.auth_method end
  if o.disable_pkce then fields[#fields + 1] = "pkce=false" end
  local plain = given[key .. ".client_id"]
  if plain then fields[#fields + 1] = "client_id=" .. plain
  elseif not o.client_id then report.usage(("%s.client_id is missing: the client that the provider knows"):format(key), key .. ".client_id=…") end
  return "oauth_authorization_code"
end

local makers = {}

function makers.bearer(r, s, given, fields, typed)
  local o = oauth_of(r, s.key)
  if o then return oauth_fields(o, s.key, given, fields, typed) end
  typed.token, fields[1] = secret_of(given, s.key, s.host), "token=-"
  return "bearer", "token"
end

function makers.basic(_, s, given, fields, typed)
  if not s.key then
    typed.secret_username, typed.password = secret_of(given, s.user_key, s.host), ""
    fields[1], fields[2] = "secret_username=-", "password=-"
    return "basic", "secret_username"
  end
  typed.password = secret_of(given, s.key, s.host)
  if require("proposals").uses(s)[s.user_key] == "secret" then
    typed.secret_username = secret_of(given, s.user_key, s.host)
    fields[1], fields[2] = "secret_username=-", "password=-"
    return "basic", "password"
  end
  local user = given[s.user_key]
  if type(user) ~= "string" then report.usage(("%s is missing: the user name"):format(s.user_key), s.user_key .. "=NAME") end
  fields[1], fields[2] = "username=" .. user, "password=-"
  return "basic", "password"
end

-- Headers beside what a type attaches, which each has.
local function headers(list, s, given, fields, typed)
  for _, m in ipairs(list or {}) do
    local label = "headers." .. m.header
    typed[label], fields[#fields + 1] = (m.prefix or "") .. secret_of(given, m.key, s.host), label .. "=-"
  end
end

makers["api-key"] = function(_, s, given, fields, typed)
  typed.key = secret_of(given, s.key, s.host)
  fields[1], fields[2], fields[3] = "key=-", "header=" .. s.header, s.prefix and "prefix=" .. s.prefix
  headers(s.more, s, given, fields, typed)
  return "api_key", "key"
end

-- Rows alone: each key is a secret of its own.
function makers.substitute(_, s, given, fields, typed)
  for _, row in ipairs(s.rows) do
    local label = "values." .. row.key:lower()
    if typed[label] == nil then
      typed[label], fields[#fields + 1] = secret_of(given, row.key, s.host), label .. "=-"
    end
  end
  return "substitute"
end

-- Rows of other keys than auth's: what auth attaches are headers then.
function makers.mixed(r, s, given, fields, typed)
  local auth = { header = s.header or "authorization", prefix = s.kind == "bearer" and "Bearer " or s.prefix, key = s.key }
  headers({ auth }, s, given, fields, typed)
  headers(s.more, s, given, fields, typed)
  return makers.substitute(r, s, given, fields, typed)
end

local function command(words)
  for _, c in ipairs(require("cli").commands_of(words:match("^%S+"))) do
    if c.words == words then return c end
  end
end

-- Services that read one account are one credential: its token is one, and a provider may end a grant whose refresh token comes twice. Those
-- that open one host are one entry of it.
local function shared_with(r, s, chosen, opts)
  local out, account = { s }, s.key and oauth_of(r, s.key)
  for _, other in ipairs(chosen) do
    local open = s.kind == "passthrough" and other.kind == s.kind and (opts.hosts[other.name] or other.host) == (opts.hosts[s.name] or s.host)
    if other ~= s and (account and other.key == s.key or open) then out[#out + 1] = other end
  end
  return out
end

-- Opens a host without a credential, for all services that ask for it: below the path of each.
local function open(r, s, all, opts, host, ctx)
  if opts.add_only and require("proposals").replaced(r, s, host) then
    report.fail(("something is open at %s already"):format(host), "whoever runs this box can change it: sallyport domain set")
  end
  local paths, whole, methods = {}, false, opts.methods[s.name]
  for _, x in ipairs(all) do
    local path = opts.paths[x.name] or x.path
    if x.port ~= s.port or table.concat(opts.methods[x.name] or {}, " ") ~= table.concat(methods or {}, " ") then
      report.usage(("%s opens the same host, so both are one entry and have the same port and methods"):format(x.name), "give both the same ones, or --only one of them")
    end
    whole = whole or not path
    paths[#paths + 1] = path
  end
  return command("domain add").run({ r.bundle, host }, { port = s.port and { tostring(s.port) } or nil, path = not whole and paths or nil, method = methods }, ctx)
end

-- A credential that is there gets other hosts, so all of its secrets are typed again, and what opened more for the hosts before goes;
-- methods, and rows where none came, stay.
local function change(s, had, fields, opt, ctx)
  if require("web.bounds").unled(had, ctx.typed) then
    report.fail("it is there, and has secrets that are not typed here", ("sallyport credential set %s, or remove it first"):format(s.name))
  end
  local clear = {}
  for _, c in ipairs { { "address", "addresses" }, { "seal-host", "seal_hosts" }, { "plain-http", "plain_http" }, { "path", not opt.path and "paths" } } do
    clear[#clear + 1] = c[2] and had[c[2]] and c[1] or nil        -- they were for the hosts before
  end
  if s.kind == "api-key" and not s.prefix and (had.fields or {}).prefix then clear[#clear + 1] = "prefix" end
  local n = #ctx.gathers
  command("credential set").run({ s.name, table.unpack(fields) }, { host = opt.host, port = opt.port or { "443" }, path = opt.path, method = opt.method,
    substitute = opt.substitute, clear = clear }, ctx)
  for i = n + 1, #ctx.gathers do
    local op = ctx.gathers[i]
    if op.db == "credential" and op.key == s.name then op.plain.enabled = not s.off end
  end
end

-- Under which names the agent asked for what is made: /discover tells them again, and a service is deleted by its own.
local function named(op, s, all)
  if op.db == "bundle" then
    op.plain.name = s.name
    return op
  end
  local keys, seen = {}, {}
  for _, x in ipairs(all) do
    for key in pairs(require("proposals").uses(x)) do
      if not seen[key] then seen[key], keys[#keys + 1] = true, key end
    end
  end
  table.sort(keys)
  op.plain.keys = keys
  return op
end

-- Runs the command that makes a service come to be. ctx.gathers gets its operations.
local function make(r, s, all, given, opts, ctx)
  local hosts = {}
  local path, methods = opts.paths[s.name] or s.path, opts.methods[s.name]
  for i, x in ipairs(all) do hosts[i] = opts.hosts[x.name] or x.host end
  if s.kind == "passthrough" then return open(r, s, all, opts, hosts[1], ctx) end
  for _, x in ipairs(all) do
    if (opts.paths[x.name] or x.path) ~= path then
      report.usage(("%s reads the same account, so both are one credential and have one path"):format(x.name), "give both the same one")
    end
    if table.concat(opts.methods[x.name] or {}, " ") ~= table.concat(methods or {}, " ") then
      report.usage(("%s reads the same account, so both are one credential and have the same methods"):format(x.name), "give both the same ones")
    end
  end
  local opt = { port = s.port and { tostring(s.port) } or nil, path = path and { path } or nil, method = methods, off = s.off }
  if s.remove then
    if s.remove == "host" then return command("domain remove").run({ r.bundle, s.host }, {}, ctx) end
    return command("bundle detach").run({ r.bundle, s.name }, {}, ctx)
  end
  local fields, typed = {}, {}
  local type_, field = makers[s.mixed and "mixed" or s.kind](r, s, given, fields, typed)
  ctx.typed, opt.type, opt.host, opt.bundle = typed, type_, hosts, { r.bundle }
  for i, row in ipairs(s.rows or {}) do
    opt.substitute = opt.substitute or {}
    local places, why = require("proposals").placed(row, (opts.places[s.name] or {})[row.placeholder], s)
    if not places then report.usage(why) end
    local of = not field and "values." .. row.key:lower() or row.key == s.user_key and "secret_username" or field
    opt.substitute[i] = ("%s:%s:%s"):format(of, table.concat(places, ","), row.placeholder)
  end
  local had = not opts.add_only and require("proposals").changed(r, s)
  if not had then
    command("credential add").run({ s.name, table.unpack(fields) }, opt, ctx)
  else
    change(s, had, fields, opt, ctx)
  end
end

-- All that is to be written, and the tokens that were pasted.
local function gather(r, chosen, given, opts, notes)
  local ctx = { home = opts.home, env = opts.env, opened = true, json = true, page = opts.page, typed = {}, gathers = {},
    host = setmetatable({ isatty = function() return false end }, { __index = require "host" }), out = function() end }
  local done = {}
  for _, s in ipairs(chosen) do
    if not done[s] then
      ctx.note = function(text) notes[#notes + 1] = text end
      local all = shared_with(r, s, chosen, opts)
      for _, x in ipairs(all) do done[x] = true end
      local n, pasted = #ctx.gathers, #(ctx.gathers.pasted or {})
      local ok, trouble = pcall(make, r, s, all, given, opts, ctx)
      for i = n + 1, s.remove and 0 or #ctx.gathers do
        local op = ctx.gathers[i]
        if op.op == "put" and (op.db == "credential" or s.kind == "passthrough" and op.db == "bundle") then named(op, s, all) end
      end
      for i = pasted + 1, #(ctx.gathers.pasted or {}) do
        local p = ctx.gathers.pasted[i]
        local build = p.op
        p.op = function() return named(build(), s, all) end
      end
      if not ok then
        if type(trouble) == "table" and trouble.exit then trouble.message = ("%s: %s"):format(s.name, trouble.message) end
        error(trouble, 0)
      end
    end
  end
  return ctx
end

-- What of a service's was approved, as its record keeps it.
local function as_made(s, opts)
  if opts.only and not opts.only[s.name] then
    s.left = true
    return
  end
  for _, row in ipairs(s.rows or {}) do row.places = require("proposals").placed(row, (opts.places[s.name] or {})[row.placeholder], s) end
  local host, path, methods = opts.hosts[s.name], opts.paths[s.name], opts.methods[s.name]
  s.made = (host or path or methods) and { host = host, path = path, methods = methods } or nil
end

-- The proposal as it ends | nil: somebody else has answered it. opts: of an approval.
local function settled(row, state, reason, opts)
  local now = require("store").peek("proposal", row.key)
  if not now or require("proposals").state(now, require("time").wall()) ~= "pending" then return nil end
  local plain = db.plain(now)
  plain.state, plain.reason = state, reason
  for _, s in ipairs(opts and plain.services or {}) do as_made(s, opts) end
  return { op = "put", db = "proposal", key = row.key, version = now.version, plain = plain }
end

local function ended(row) report.fail(("'%s' was answered meanwhile"):format(row.record.proposal), "sallyport proposal list") end

-- A refresh token is tried first; what came for it, and all the rest, is written together.
local function bring(pasted, ctx, ops)
  if #pasted > 1 then report.usage("tokens of one account can be pasted at a time", "sign in to the others afterwards: sallyport connect") end
  local connect, name = require "cli.authorization", pasted[1].name
  local env, trouble = ctx.env, nil
  if not env then env, trouble = connect.env(ctx) end
  if not env then report.fail(trouble) end
  local ok, code, detail = connect.replace(env, name, pasted[1].op, pasted[1].secrets, ops)
  if not ok then
    report.fail(("nothing was approved: the tokens of %s did not work: %s"):format(name,
      connect.say[code == "unstored" and detail or code] or require("token").sentence(code, detail)), "get new ones, or approve without and sign in afterwards")
  end
end

--- approve(row, given, opts) -> names of what was made, notes, names of accounts to sign in to. row: { key, record } of a pending one; given: what
-- was typed, by label: secrets and plain texts; opts = { home, only = { [service] = true } | nil: all, hosts = { [service] = host }, paths = { [service] = path },
-- methods = { [service] = list }, places = { [service] = { [placeholder] = text } }: of places that had no name, use = { [KEY] = true }: the agent's own value, page = bool, add_only = bool: no credential that is there is changed, context = whose change it is | nil: the command's, env = authorization.env_of in a worker }. Raises as commands do; nothing is written then. Yields.
function M.approve(row, given, opts)
  local r, chosen, names = row.record, {}, {}
  for _, name in ipairs { "hosts", "paths", "methods", "places" } do opts[name] = opts[name] or {} end
  for _, s in ipairs(r.services) do
    if not opts.only or opts.only[s.name] then chosen[#chosen + 1], names[#names + 1] = s, s.name end
  end
  if not chosen[1] then report.usage("no service is chosen") end
  local sent = opts.use and next(opts.use) and require("store").get("proposal", row.key)
  for _, c in ipairs(sent and sent.credentials or {}) do
    if opts.use[c.key] and given[c.key] == nil then given[c.key] = c.text or (sent.secrets or {})["v/" .. c.key] end
  end
  local reason = #chosen < #r.services and "in part: " .. table.concat(names, ", ") or nil
  local notes, ctx
  local function ops_of()
    notes = {}
    ctx = gather(r, chosen, given, opts, notes)
    local ops = table.move(ctx.gathers, 1, #ctx.gathers, 1, { context = opts.context })
    ops[#ops + 1] = settled(row, "applied", reason, opts) or ended(row)
    return ops
  end
  local ops = ops_of()
  if ctx.gathers.pasted then
    bring(ctx.gathers.pasted, ctx, ops_of)
  else
    db.change(function()
      local first = ops or ops_of()
      ops = nil
      return first
    end)
  end
  local accounts, pasted, seen = {}, {}, {}
  for _, p in ipairs(ctx.gathers.pasted or {}) do pasted[p.name] = true end
  for _, s in ipairs(chosen) do
    if s.key and oauth_of(r, s.key) and not seen[s.key] then
      seen[s.key] = true
      accounts[#accounts + 1] = not pasted[s.name] and s.name or nil
    end
  end
  return names, notes, accounts
end

--- Accounts of a proposal that was approved which wait for somebody to sign in, so many seconds at most after that: { name, host of the
-- authorization server, at = which service } each.
function M.unconnected(r, within)
  local out, seen, store, token_state, now = {}, {}, require "store", require "cli.token_state", require("time").wall()
  if r.state ~= "applied" then return out end
  for i, s in ipairs(r.services) do
    local o = s.key and not seen[s.key] and oauth_of(r, s.key)
    local cred = o and store.peek("credential", s.name)
    -- the one that the approval made: a later one of the same name may be anybody's
    local made = cred and cred.type == "oauth_authorization_code" and (cred.fields or {}).token_url == o.token_url and cred.created and cred.created >= r.created
      and now - cred.created <= within and cred.created <= now
    -- A request of the agent's meanwhile, or an answer that was none, may have left a failure: that is no token.
    if made and token_state.connection(token_state.read(cred, now)) == "not connected" then
      seen[s.key] = true
      local url = require("http").parse_url(o.authorization_url or "")
      if url then out[#out + 1] = { name = s.name, host = url.host, at = i } end
    end
  end
  return out
end

--- Says no to it. context: whose change it is | nil: the command's. Raises as commands do. Yields.
function M.reject(row, reason, context)
  db.change(function() return { settled(row, "rejected", reason) or ended(row), context = context } end)
end

return M
