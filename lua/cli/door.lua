--- sallyport tenant, user, role, gateway, client, key, connection: who may come in by the door, and to what.
local access = require "web.access"
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"
local variables = require "variables"

local function now() return require("time").wall() end
local function joined(list, none) return list and #list > 0 and table.concat(list, ",") or none or "-" end

local function named(text, check)
  local name, why = (check or records.name)(text)
  if not name then report.usage(why) end
  return name
end

-- A duration as the moment when it is over.
local function until_(text)
  if not text then return nil end
  local seconds, why = records.duration(text)
  if not seconds then report.usage("--ttl: " .. why) end
  return now() + seconds
end

local kinds = {
  tenant = { "agent", "a/" }, user = { "user", "u/" }, role = { "user", "r/" }, gateway = { "gateway", "" },
  client = { "client", "c/" }, connection = { "grant", "g/" },
}

-- The record, or the command ends with what was probably meant.
local function need(kind, name)
  local k = kinds[kind]
  local record = db.peek(k[1], k[2] .. name, ("%s '%s'"):format(kind, report.clean(name)))
  if record and (kind ~= "tenant" or record.kind == "tenant") then return record end
  local near = records.nearest(name, db.names(k[1], k[2]))
  report.fail(("there is no %s '%s'"):format(kind, report.clean(name)),
    near and kind ~= "tenant" and ("did you mean %s?"):format(near) or ("sallyport %s list"):format(kind))
end

local function need_role(name)
  local role = access.role(name)
  if role then return role end
  local names = db.names("user", "r/")
  table.move(access.builtin_roles, 1, 3, #names + 1, names)
  local near = records.nearest(name, names)
  report.fail(("there is no role '%s'"):format(report.clean(name)),
    near and ("did you mean %s?"):format(near) or ("there are %s; sallyport role add makes others"):format(table.concat(names, ", ")))
end

local function scopes_of(list, ctx)
  local known, out = {}, {}
  for _, s in ipairs(access.scopes) do known[#known + 1] = s.name end
  for _, g in db.each("gateway", "") do
    for _, s in ipairs(g and g.scopes or {}) do known[#known + 1] = s.name end
  end
  for i, text in ipairs(list) do
    local name = named(text, access.scope_name)
    local found = false
    for _, k in ipairs(known) do found = found or k == name end
    if not found then
      local near = records.nearest(name, known)
      ctx.note(("note: no gateway has a scope %s yet%s"):format(name, near and ("; did you mean %s?"):format(near) or ""))
    end
    out[i] = name
  end
  return out
end

-- --tenant acme=member …: over what the user has; "acme=" takes one away.
local function tenants_of(list, have)
  local out = {}
  for t, r in pairs(have or {}) do out[t] = r end
  for _, text in ipairs(list or {}) do
    local tenant, role = text:match("^([^=]+)=(.*)$")
    if not tenant then report.usage("a tenant comes with a role: --tenant acme=member") end
    if role == "" then
      out[tenant] = nil
    else
      out[need("tenant", tenant).name] = need_role(role).name
    end
  end
  return out
end

local function pairs_of(map)
  local out = {}
  for k, v in pairs(map or {}) do out[#out + 1] = k .. "=" .. v end
  table.sort(out)
  return out
end

-- ---- what --json shows --------------------------------------------------------------------------

local show = {}

function show.tenant(a)
  return { name = a.name, bundles = report.array(a.bundles), variables = a.variables or {}, variables_off = a.variables_off, created = a.created, expires_at = a.expires_at,
    state = a.revoked and "revoked" or a.expires_at and a.expires_at <= now() and "expired" or "active" }
end

function show.user(u, link)
  return { name = u.name, tenants = u.tenants, state = u.disabled and "disabled" or (u.password or u.oidc) and "active" or "invited",
    totp = u.totp ~= nil, approve = u.approve or nil, operator = u.operator or nil, created = u.created, link = link }
end

function show.role(r) return { name = r.name, scopes = r.scopes ~= true and report.array(r.scopes) or nil, all = r.scopes == true or nil } end

function show.gateway(g)
  local scopes = report.array()
  for i, s in ipairs(g.scopes or {}) do scopes[i] = { name = s.name, says = s.says, tools = report.array(s.tools) } end
  local issuer = access.issuer()
  return { name = g.name, url = g.url, credential = g.credential, address = issuer and issuer .. "/mcp/" .. g.name, read = report.array(g.read),
    scopes = scopes, created = g.created }
end

function show.client(c, secret)
  return { id = c.client, name = c.name, redirect_uris = report.array(c.redirect_uris), created = c.created, source = c.source, secret = secret }
end

function show.key(k, token)
  return { name = k.name, tenant = k.tenant, user = k.user, role = k.role, scopes = report.array(k.scopes), gateways = k.gateways and report.array(k.gateways),
    created = k.created, expires_at = k.expires_at, state = k.expires_at and k.expires_at <= now() and "expired" or "active", token = token }
end

function show.connection(g)
  local used = require("store").peek("token", "v/" .. g.connection)
  local tokens = require("store").peek("token", "f/" .. g.connection)
  return { id = g.connection, user = g.user, tenant = g.tenant, client = g.client_name, client_id = g.client_key, gateway = g.gateway, scopes = report.array(g.scopes),
    created = g.created, used_at = used and used.at, expires_at = tokens and tokens.expires_at }
end

-- A listing: columns = { TITLE, function(shown) -> cell }…
local function lister(kind, prefix_db, prefix, columns, filter)
  return function(_, _, ctx)
    db.open(ctx)
    local rows, out, titles = {}, report.array(), {}
    for i, c in ipairs(columns) do titles[i] = c[1] end
    local function add(record)
      local shown, row = show[kind](record), {}
      out[#out + 1] = shown
      for i, c in ipairs(columns) do row[i] = c[2](shown) end
      rows[#rows + 1] = row
    end
    if kind == "role" then
      for _, name in ipairs(access.builtin_roles) do add(access.role(name)) end
    end
    for key, record, damaged in db.each(prefix_db, prefix) do
      if not record or damaged then
        rows[#rows + 1] = { key:sub(#prefix + 1), "damaged: refused" }
        for i = 3, #columns do rows[#rows][i] = "" end
        out[#out + 1] = { name = key:sub(#prefix + 1), state = "damaged" }
      elseif not filter or filter(record) then
        add(record)
      end
    end
    if ctx.json then
      ctx.out(report.json(out))
    elseif #rows == 0 then
      ctx.note(("There is no %s yet: sallyport help door"):format(kind))
    else
      ctx.out(terminal.columns(ctx, titles, rows))
    end
    return 0
  end
end

local function member(name, f)
  return function(s)
    local v = s[name]
    if f then v = f(v) end
    return v == nil and "-" or v
  end
end
local function moment(none) return function(v) return v and report.time(v) or none end end

-- Writes a new record; one that is there is kept, but one that was changed on the disk is replaced.
local function create(kind, name, plain)
  local k = kinds[kind]
  db.change(function()
    local old, code = require("store").peek(k[1], k[2] .. name)
    if old and not (kind == "tenant" and old.revoked) then
      report.fail(("there is %s '%s' already"):format(old.kind ~= plain.kind and "an agent" or "a " .. kind, report.clean(name)))
    end
    return { { op = "put", db = k[1], key = k[2] .. name, plain = plain, fresh = true,
      version = code ~= "damaged" and (old and old.version or 0) or nil } }
  end)
end

-- Takes a record away, and all connections and keys that `of` says go with it.
local function remove(kind, name, of, more)
  local k = kinds[kind]
  local _, code = require("store").peek(k[1], k[2] .. name)
  if code ~= "damaged" then need(kind, name) end
  local ended = 0
  db.change(function()
    local ops = { { op = "del", db = k[1], key = k[2] .. name } }
    ended = 0
    for key, g in db.each("grant", "") do
      if g and of and of(g) then
        ended = ended + 1
        ops[#ops + 1] = { op = "del", db = "grant", key = key }
        if key:sub(1, 2) == "g/" then table.move(access.ending(g.connection), 2, 4, #ops + 1, ops) end
      end
    end
    for _, op in ipairs(more and more() or {}) do ops[#ops + 1] = op end
    return ops
  end)
  return ended
end

local function removed(ctx, what, name, ended)
  ctx.note(("Removed the %s '%s'%s."):format(what, report.clean(name),
    ended > 1 and ("; %d connections and keys ended with it"):format(ended) or ended == 1 and "; a connection or key ended with it" or ""))
  report.answer(ctx, { removed = report.array { name } })
  return 0
end

-- ---- tenant --------------------------------------------------------------------------------------

local function tenant_add(args, opt, ctx)
  local name = named(args[1])
  db.open(ctx)
  local vars
  for i = 2, #args do
    local new, why = variables.assign(vars, args[i])
    if not new then report.usage(why, "sallyport tenant add acme --bundle acme WORKSPACE=wrk_1") end
    vars = new
  end
  local bundles = db.bundles(opt.bundle)
  create("tenant", name, { name = name, kind = "tenant", bundles = bundles, variables = vars, created = now(), revoked = false })
  ctx.note(("Made the tenant '%s', which acts with %s. Somebody in it: sallyport user add ada@example.org --tenant %s=member")
    :format(name, joined(bundles), name))
  report.answer(ctx, show.tenant(need("tenant", name)))
  return 0
end

local function tenant_set(args, opt, ctx)
  if not (opt.bundle or opt.disable_variable or opt.enable_variable or args[2]) then
    report.usage("nothing to change was named", "--bundle B …, NAME=VALUE …, --disable-variable NAME or --enable-variable NAME")
  end
  db.open(ctx)
  local bundles, plain = opt.bundle and db.bundles(opt.bundle), nil
  db.change(function()
    local record = need("tenant", args[1])
    if record.revoked then report.fail(("'%s' is revoked"):format(args[1]), ("sallyport tenant add %s begins anew"):format(args[1])) end
    plain = db.plain(record)
    plain.bundles = bundles or plain.bundles
    local ok, why = variables.change(plain, args, opt.disable_variable, opt.enable_variable)
    if not ok then report.usage(why, "sallyport tenant set acme WORKSPACE=wrk_1") end
    return { { op = "put", db = "agent", key = "a/" .. args[1], version = record.version, plain = plain } }
  end)
  local left = variables.lines(plain.variables, plain.variables_off)
  ctx.note(("The tenant '%s' acts with %s%s."):format(args[1], joined(plain.bundles), left[1] and ", and " .. report.clean(table.concat(left, "  ")) or ""))
  report.answer(ctx, show.tenant(need("tenant", args[1])))
  return 0
end

-- ---- user ----------------------------------------------------------------------------------------

-- Where the page of `serve --admin` is, as it is set | nil
local function page_url()
  local all = records.settings()
  if all.admin_url then return all.admin_url end
  for _, text in ipairs(all.admin) do
    if text:sub(1, 5) ~= "unix:" and not text:find(":0$") then return (all.admin_cert and "https://" or "http://") .. text end
  end
end

local function give_link(ctx, name)
  local base = need("user", name).operator and page_url()
  if not base and not access.issuer() then
    ctx.note("No link can be made before the door, or for operators the page, has an address: sallyport set public-url https://box.example.org "
      .. ("(or admin-url); then: sallyport user set %s --link"):format(name))
    return nil
  end
  local link
  db.change(function()
    local ops
    link, ops = access.link(need("user", name), now(), base)
    return ops
  end)
  ctx.note("With this link they set a password; it is good once, for 24 hours, and ends older ones:")
  ctx.out(link .. "\n")
  return link
end

local function user_add(args, opt, ctx)
  local name = named(args[1], access.user_name)
  db.open(ctx)
  create("user", name, { name = name, tenants = tenants_of(opt.tenant), created = now(), totp_wanted = opt.totp or nil,
    approve = opt.approve or nil, operator = opt.operator or nil })
  local link = give_link(ctx, name)
  report.answer(ctx, show.user(need("user", name), link))
  return 0
end

local function user_change(args, ctx, edit)
  local name = named(args[1], access.user_name)
  db.open(ctx)
  db.change(function()
    local record = need("user", name)
    local plain = db.plain(record)
    edit(plain)
    return { { op = "put", db = "user", key = "u/" .. name, plain = plain, version = record.version, moves = true } }
  end)
  return name
end

local function user_set(args, opt, ctx)
  if not (opt.tenant or opt.totp or opt.no_totp or opt.link or opt.enable or opt.approve or opt.no_approve or opt.operator or opt.no_operator) then
    report.usage("nothing to change was named", "--tenant T=ROLE (T= takes it away), --totp, --no-totp, --link, --enable, --approve, --operator")
  end
  local name = user_change(args, ctx, function(u)
    u.tenants = tenants_of(opt.tenant, u.tenants)
    if opt.totp then u.totp_wanted = true end
    if opt.no_totp then u.totp, u.totp_wanted = nil, nil end
    if opt.enable then u.disabled = nil end
    if opt.approve or opt.no_approve then u.approve = not opt.no_approve or nil end
    if opt.operator or opt.no_operator then u.operator = not opt.no_operator or nil end
  end)
  local u = need("user", name)
  ctx.note(("'%s' is in %s."):format(name, joined(pairs_of(u.tenants), "no tenant")))
  report.answer(ctx, show.user(u, opt.link and give_link(ctx, name)))
  return 0
end

local function user_disable(args, _, ctx)
  local name = user_change(args, ctx, function(u) u.disabled = true end)
  ctx.note(("'%s' is disabled: no connection or key of theirs works. sallyport user set %s --enable"):format(name, name))
  report.answer(ctx, show.user(need("user", name)))
  return 0
end

local function user_remove(args, _, ctx)
  local name = named(args[1], access.user_name)
  db.open(ctx)
  return removed(ctx, "user", name, remove("user", name, function(g) return g.user == name end,
    function() return { require("web.sessions").forget(name) } end))
end

-- ---- role ----------------------------------------------------------------------------------------

local function role_add(args, opt, ctx)
  local name = named(args[1])
  db.open(ctx)
  for _, b in ipairs(access.builtin_roles) do
    if b == name then report.fail(("the role '%s' is there from the start, and stays as it is"):format(name)) end
  end
  if not opt.scope then report.usage("a role is a list of scopes: --scope tools:read …") end
  local scopes = scopes_of(opt.scope, ctx)
  db.change(function()
    local old = require("store").peek("user", "r/" .. name)
    return { { op = "put", db = "user", key = "r/" .. name, version = old and old.version or nil,
      plain = { name = name, scopes = scopes, created = old and old.created or now() } } }
  end)
  ctx.note(("The role '%s' allows %s. Narrower than before counts at once, wider from a connection's next refresh."):format(name, joined(scopes)))
  report.answer(ctx, show.role(access.role(name)))
  return 0
end

local function role_remove(args, _, ctx)
  db.open(ctx)
  return removed(ctx, "role", args[1], remove("role", args[1]))
end

-- ---- gateway -------------------------------------------------------------------------------------

local function tool_patterns(list)
  for _, p in ipairs(list or {}) do
    if #p > 128 or p:find("[%c%s]") or not utf8.len(p) then report.usage("a tool is named as the server names it; '*' stands for any text") end
  end
  return list
end

local function gateway_add(args, opt, ctx)
  local name = named(args[1])
  db.open(ctx)
  local url, why = require("http").parse_url(args[2])
  if not url then report.usage(("the address of the MCP server: %s"):format(why or "it is none")) end
  if args[2]:find("[#%c%s@]") then report.usage("the address of the MCP server has no user, fragment or space") end
  local credential = opt.credential and db.need("credential", opt.credential) and opt.credential
  create("gateway", name, { name = name, url = args[2], credential = credential, read = tool_patterns(opt.read), created = now() })
  local shown = show.gateway(need("gateway", name))
  ctx.note(shown.address and ("Published at %s"):format(shown.address)
    or "Not published yet: sallyport set public-url https://box.example.org, and sallyport serve --gateway 0.0.0.0:8443")
  report.answer(ctx, shown)
  return 0
end

local function gateway_scope(args, opt, ctx)
  local scope = named(args[2], access.scope_name)
  for _, s in ipairs(access.scopes) do
    if s.name == scope then report.fail(("%s is a scope from the start"):format(scope), "name the gateway's own otherwise: entities:write") end
  end
  if not opt.remove and not (opt.tool and opt.says) then
    report.usage("a scope has tools and a sentence for the consent page", "--tool 'create_*' --says \"Create entities\"")
  end
  local says, why = records.text(opt.says or "")
  if not says then report.usage("--says: " .. why) end
  db.open(ctx)
  db.change(function()
    local record = need("gateway", args[1])
    local plain, list = db.plain(record), {}
    for _, s in ipairs(plain.scopes or {}) do list[#list + 1] = s.name ~= scope and s or nil end
    if not opt.remove then list[#list + 1] = { name = scope, says = says, tools = tool_patterns(opt.tool) } end
    plain.scopes = list
    return { { op = "put", db = "gateway", key = args[1], plain = plain, version = record.version } }
  end)
  ctx.note(opt.remove and ("'%s' has no scope %s now."):format(args[1], scope)
    or ("Tools of '%s' that match %s need %s from now on."):format(args[1], joined(opt.tool), scope))
  report.answer(ctx, show.gateway(need("gateway", args[1])))
  return 0
end

local function gateway_remove(args, _, ctx)
  db.open(ctx)
  return removed(ctx, "gateway", args[1], remove("gateway", args[1], function(g) return g.gateway == args[1] end))
end

-- ---- client --------------------------------------------------------------------------------------

local function client_add(args, opt, ctx)
  local name, why = records.text(args[1])
  if not name or name == "" then report.usage(why or "a client has a name") end
  if not opt.redirect then report.usage("a client has addresses to return to: --redirect https://claude.ai/api/mcp/auth_callback") end
  for _, uri in ipairs(opt.redirect) do
    local ok, bad = require("web.redirect").check(uri)
    if not ok then report.usage(("--redirect: %s"):format(bad)) end
  end
  db.open(ctx)
  local id, secret = "sp_cl_" .. access.id(), not opt.public and "sp_cs_" .. access.random() or nil
  create("client", id, { client = id, name = name, redirect_uris = opt.redirect, created = now(), source = "operator",
    method = secret and "secret" or "none", secret_hash = secret and access.hash("client-secret", secret) })
  report.answer(ctx, show.client(need("client", id), secret))
  ctx.note(secret and "The client's id and its secret, shown this once (the store keeps only a hash):" or "The client's id; it has no secret:")
  ctx.out(id .. "\n" .. (secret and secret .. "\n" or ""))
  return 0
end

local function client_remove(args, _, ctx)
  db.open(ctx)
  return removed(ctx, "client", args[1], remove("client", args[1], function(g) return g.client_key == args[1] end))
end

-- ---- key -----------------------------------------------------------------------------------------

local function find_key(name)
  for key, k, damaged in db.each("grant", "k/") do
    if k and k.name == name then return key, k end
    if damaged and key == name then return key end      -- one that was changed on the disk is named by its key
  end
end

local function key_add(args, opt, ctx)
  local name = named(args[1])
  if not opt.tenant or (opt.user == nil) == (opt.role == nil) then
    report.usage("a key acts in a tenant, as a user or with a role", "sallyport key add ci --tenant acme --role viewer")
  end
  db.open(ctx)
  local tenant = need("tenant", opt.tenant)
  local user = opt.user and need("user", named(opt.user, access.user_name))
  if user and not user.tenants[tenant.name] then report.fail(("'%s' is not in '%s'"):format(user.name, tenant.name)) end
  local role = need_role(opt.role or user.tenants[tenant.name])
  local scopes = opt.scope and scopes_of(opt.scope, ctx)
  for _, s in ipairs(scopes or {}) do
    if not access.allows(role, s) then report.fail(("the role %s does not allow %s"):format(role.name, s)) end
  end
  for _, g in ipairs(opt.gateway or {}) do need("gateway", g) end
  local token = "sk_" .. access.random()
  local plain = { name = name, tenant = tenant.name, tenant_id = tenant.id, user = user and user.name, user_id = user and user.id, role = opt.role,
    scopes = scopes, gateways = opt.gateway, created = now(), expires_at = until_(opt.ttl) }
  db.change(function()
    if find_key(name) then report.fail(("there is a key '%s' already"):format(name), ("sallyport key revoke %s"):format(name)) end
    return { { op = "put", db = "grant", key = "k/" .. access.hash("key", token), plain = plain, version = 0, fresh = true } }
  end)
  return report.once(ctx, show.key(plain, token), "key", token)
end

local function key_revoke(args, _, ctx)
  db.open(ctx)
  local key = find_key(args[1])
  if not key then report.fail(("there is no key '%s'"):format(report.clean(args[1])), "sallyport key list") end
  db.change(function() return { { op = "del", db = "grant", key = key } } end)
  ctx.note(("The key '%s' has ended."):format(report.clean(args[1])))
  report.answer(ctx, { removed = report.array { args[1] } })
  return 0
end

-- ---- connection ----------------------------------------------------------------------------------

local function connection_show(args, _, ctx)
  db.open(ctx)
  local c = show.connection(need("connection", args[1]))
  if ctx.json then
    ctx.out(report.json(c))
  else
    ctx.out(terminal.columns(ctx, nil, { { "connection", c.id }, { "user", c.user }, { "tenant", c.tenant }, { "client", c.client }, { "gateway", c.gateway },
      { "scopes", joined(c.scopes) }, { "created", report.time(c.created) }, { "last used", report.time(c.used_at) or "never" } }))
  end
  return 0
end

local function connection_revoke(args, _, ctx)
  db.open(ctx)
  for _, id in ipairs(args) do
    local _, code = require("store").peek("grant", "g/" .. id)
    if code ~= "damaged" then need("connection", id) end
  end
  db.change(function()
    local ops = {}
    for _, id in ipairs(args) do table.move(access.ending(id), 1, 4, #ops + 1, ops) end
    return ops
  end)
  ctx.note(report.count(#args, "connection") .. " ended, open streams included.")
  report.answer(ctx, { removed = report.array(args) })
  return 0
end

local bundle = { name = "bundle", arg = "BUNDLE", many = true, help = "what it acts with, in order; `default` unless named", changes = "what it acts with, in order" }
local tenant_role = { name = "tenant", arg = "TENANT=ROLE", many = true, help = "a tenant they may act for, and as what: viewer, member, admin or one of `role add`" }
local totp = { name = "totp", help = "a code of an authenticator app is asked for beside the password" }
local approve = { name = "approve", help = "may answer at the door what agents ask for: PUBLIC-URL/approvals" }
local operator = { name = "operator", help = "may sign in to the page of `serve --admin`, and do all there" }
local more = "\nMore: sallyport help door\n"

return {
  { words = "tenant add", args = "NAME [options] [NAME=VALUE …]", min = 1, options = { bundle }, run = tenant_add,
    summary = "what connections may act as",
    help = [[
A tenant is what an inbound connection acts as: bundles and variables, as an agent has them, but no token of its own.

example:
  sallyport tenant add acme --bundle acme WORKSPACE=wrk_1
]] },
  { words = "tenant list", max = 0, summary = "tenants and their bundles", help = "Lists tenants.\n\nexample:\n  sallyport tenant list\n",
    run = lister("tenant", "agent", "a/", { { "TENANT", member "name" }, { "BUNDLES", member("bundles", joined) }, { "STATE", member "state" },
      { "VARIABLES", member("variables", function(v) return table.concat(variables.lines(v), " ") end) } }, function(a) return a.kind == "tenant" end) },
  { words = "tenant set", args = "TENANT [options] [NAME=VALUE …]", min = 1, run = tenant_set, summary = "change its bundles or its variables",
    options = table.move(variables.options, 1, #variables.options, 2, report.changing { bundle }), help = [[
Replaces the tenant's bundles, or sets its own value of a variable, which counts before that of a bundle; NAME= takes it away. Both
count from the next request, in connections that are open too.

examples:
  sallyport tenant set acme --bundle acme --bundle default
  sallyport tenant set acme WORKSPACE=wrk_2
]] },
  { words = "tenant remove", args = "NAME", min = 1, max = 1, summary = "its connections and keys end",
    help = "Removes a tenant; connections and keys that act as it end at once.\n\nexample:\n  sallyport tenant remove acme\n",
    run = function(args, _, ctx)
      db.open(ctx)
      return removed(ctx, "tenant", args[1], remove("tenant", args[1], function(g) return g.tenant == args[1] end))
    end },

  { words = "user add", args = "USER", min = 1, max = 1, options = { tenant_role, totp, approve, operator }, run = user_add,
    summary = "a person who may sign in at the door",
    help = [[
Makes a user and prints a link, good once and for 24 hours, with which they set a password. Send it as you would a password.

example:
  sallyport user add ada@example.org --tenant acme=member --tenant globex=viewer
]] .. more },
  { words = "user list", max = 0, summary = "users and their tenants", help = "Lists users.\n\nexample:\n  sallyport user list --json\n",
    run = lister("user", "user", "u/", { { "USER", member "name" }, { "STATE", member "state" },
      { "TENANTS", member("tenants", function(t) return joined(pairs_of(t)) end) }, { "CREATED", member("created", moment "-") } }) },
  { words = "user set", args = "USER", min = 1, max = 1, run = user_set, summary = "their tenants, their second factor, a new link",
    options = { tenant_role, totp, approve, { name = "no-approve", help = "takes that away" }, operator,
      { name = "no-operator", help = "takes that away" }, { name = "no-totp", help = "no code is asked for; the app that they set up is forgotten" },
      { name = "link", help = "print a new link to set a password with; an older one ends" }, { name = "enable", help = "after `user disable`" } },
    help = [[
Changes a user. --tenant acme=viewer sets the role there, --tenant acme= takes them out. A narrower role counts at once.

examples:
  sallyport user set ada@example.org --tenant acme=viewer --tenant globex=
  sallyport user set ada@example.org --link
]] },
  { words = "user disable", args = "USER", min = 1, max = 1, run = user_disable, summary = "nothing of theirs works until enabled again",
    help = "Their sessions, connections and keys work no more, open streams included.\n\nexample:\n  sallyport user disable ada@example.org\n" },
  { words = "user remove", args = "USER", min = 1, max = 1, run = user_remove, summary = "forget them; their connections and keys end",
    help = "Forgets a user. Their connections and keys end at once.\n\nexample:\n  sallyport user remove ada@example.org\n" },

  { words = "role add", args = "NAME", min = 1, max = 1, run = role_add, summary = "a list of scopes that a user may have",
    options = { { name = "scope", arg = "SCOPE", many = true, help = "tools:read, tools:execute, resources:read, prompts:read, or a gateway's own" } },
    help = [[
Makes a role, or replaces one. From the start there are viewer (tools:read, resources:read, prompts:read), member (and
tools:execute) and admin (every scope of the gateways; nothing over the box).

example:
  sallyport role add editor --scope tools:read --scope tools:execute --scope entities:write
]] },
  { words = "role list", max = 0, summary = "roles and their scopes", help = "Lists roles.\n\nexample:\n  sallyport role list\n",
    run = lister("role", "user", "r/", { { "ROLE", member "name" }, { "SCOPES", function(s) return s.all and "all" or joined(s.scopes) end } }) },
  { words = "role remove", args = "NAME", min = 1, max = 1, run = role_remove, summary = "who has it may do nothing",
    help = "Removes a role. Who has it may do nothing there until they get another.\n\nexample:\n  sallyport role remove editor\n" },

  { words = "gateway add", args = "NAME URL", min = 2, max = 2, run = gateway_add, summary = "publish an MCP server at public-url",
    options = { { name = "credential", arg = "CREDENTIAL", help = "the credential that it is meant to go out with" },
      { name = "read", arg = "TOOL", many = true, help = "a tool that only reads: tools:read allows it; '*' stands for any text" } },
    help = [[
Publishes an MCP server as PUBLIC-URL/mcp/NAME behind our own sign-in. A request goes on as the tenant's: its bundles say
which credential it gets. What a server says of its own tools grants nothing; --read is your word.

example:
  sallyport gateway add tools https://tools.internal/mcp --credential tools --read 'get_*' --read 'list_*'
]] .. more },
  { words = "gateway scope", args = "GATEWAY SCOPE", min = 2, max = 2, run = gateway_scope, summary = "a scope of its own for some of its tools",
    options = { { name = "tool", arg = "TOOL", many = true, help = "a tool that needs the scope; '*' stands for any text" },
      { name = "says", arg = "TEXT", help = "what it allows, for the consent page" }, { name = "remove", help = "take the scope away" } },
    help = [[
Adds a scope, or replaces one: tools that match need it from then on, instead of tools:execute.

example:
  sallyport gateway scope tools entities:write --tool 'create_*' --tool 'update_*' --says "Create and change entities"
]] },
  { words = "gateway list", max = 0, summary = "gateways and where they are", help = "Lists gateways.\n\nexample:\n  sallyport gateway list\n",
    run = lister("gateway", "gateway", "", { { "GATEWAY", member "name" }, { "ADDRESS", member "address" }, { "SERVER", member "url" },
      { "SCOPES", member("scopes", function(list)
        local names = {}
        for i, s in ipairs(list) do names[i] = s.name end
        return joined(names)
      end) } }) },
  { words = "gateway remove", args = "GATEWAY", min = 1, max = 1, run = gateway_remove, summary = "its connections end",
    help = "Removes a gateway; connections to it end at once.\n\nexample:\n  sallyport gateway remove tools\n" },

  { words = "client add", args = "NAME", min = 1, max = 1, run = client_add, summary = "an id and a secret to type in",
    options = { { name = "redirect", arg = "URI", many = true, whole = true, help = "where answers may go; loopback with any port" },
      { name = "public", help = "without a secret: PKCE alone" } },
    help = [[
For clients that want an id and a secret typed in; others register by themselves. Prints both, the secret this once.

example:
  sallyport client add "ChatGPT" --redirect https://chatgpt.com/connector_platform_oauth_redirect
]] },
  { words = "client list", max = 0, summary = "clients that were added, or that somebody consented to", help = "Lists clients.\n\nexample:\n  sallyport client list\n",
    run = lister("client", "client", "c/", { { "CLIENT", member "id" }, { "NAME", member "name" }, { "SOURCE", member "source" },
      { "REDIRECTS", member("redirect_uris", function(list) return report.several(list, "-") end) } }) },
  { words = "client remove", args = "CLIENT", min = 1, max = 1, run = client_remove, summary = "its connections end",
    help = "Forgets a client; its connections end at once. One that registers by itself may ask a person again.\n\nexample:\n  sallyport client remove sp_cl_0123456789abcdef0123\n" },

  { words = "key add", args = "NAME", min = 1, max = 1, run = key_add, summary = "an sk_ key for the gateways' addresses, printed once",
    options = { { name = "tenant", arg = "TENANT", help = "what it acts as" }, { name = "user", arg = "USER", help = "it may what this user may" },
      { name = "role", arg = "ROLE", help = "it may what this role allows" },
      { name = "scope", arg = "SCOPE", many = true, help = "no more than this; all that the role allows unless named" },
      { name = "gateway", arg = "GATEWAY", many = true, help = "at this gateway alone; at all unless named" },
      { name = "ttl", arg = "TIME", help = "it ends after 24h, 7d, …; never unless named" } },
    help = [[
Prints a key that is good at the same addresses as a sign-in: Authorization: Bearer sk_…

examples:
  sallyport key add ci --tenant acme --role viewer --scope tools:read
  sallyport key add laptop --tenant acme --user ada@example.org --ttl 30d
]] },
  { words = "key list", max = 0, summary = "keys, never their text", help = "Lists keys.\n\nexample:\n  sallyport key list\n",
    run = lister("key", "grant", "k/", { { "KEY", member "name" }, { "TENANT", member "tenant" }, { "AS", function(s) return s.user or s.role end },
      { "SCOPES", function(s) return joined(s.scopes, "all") end }, { "STATE", member "state" }, { "EXPIRES", member("expires_at", moment "never") } }) },
  { words = "key revoke", args = "NAME", min = 1, max = 1, run = key_revoke, summary = "it ends at once", help = "Ends a key at once.\n\nexample:\n  sallyport key revoke ci\n" },

  { words = "connection list", max = 0, summary = "who is connected with what", help = "Lists connections.\n\nexample:\n  sallyport connection list\n",
    run = lister("connection", "grant", "g/", { { "CONNECTION", member "id" }, { "USER", member "user" }, { "TENANT", member "tenant" },
      { "CLIENT", member "client" }, { "GATEWAY", member "gateway" }, { "SCOPES", member("scopes", joined) }, { "LAST USED", member("used_at", moment "never") } }) },
  { words = "connection show", args = "CONNECTION", min = 1, max = 1, run = connection_show, summary = "one connection",
    help = "Shows a connection.\n\nexample:\n  sallyport connection show 0123456789abcdef0123\n" },
  { words = "connection revoke", args = "CONNECTION …", min = 1, run = connection_revoke, summary = "it ends at once",
    help = "Ends connections at once, open streams included.\n\nexample:\n  sallyport connection revoke 0123456789abcdef0123\n" },
}
