--- sallyport credential add, list, show, set, enable, disable, test, remove
local db = require "cli.db"
local fields = require "cli.fields"
local missing = require("oauth").missing
local presets = require "cli.presets"
local page = require "cli.page"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"
local token_state = require "cli.token_state"
local rows = require "rows"
local scrub = require "scrub"
local shape = require "cli.shape"
local stand_in = require "stand_in"
local tls = require "cli.tls"

local SECRETS_MAX = 30  -- each may go out in a field with words beside it, and of 64 in all an answer is kept free

local scope_options = {
  { name = "host", arg = "HOST", many = true, help = "where it may go: a name, an address, or *.example.com" },
  { name = "port", arg = "PORT", many = true, help = "443 unless named", changes = "where it may go: 443, say" },
  { name = "method", arg = "METHOD", many = true, help = "all unless named; GET implies HEAD; WEBSOCKET: the upgrade", changes = "GET implies HEAD; WEBSOCKET: the upgrade" },
  { name = "path", arg = "PREFIX", many = true, whole = true, help = "all unless named; /v1 covers /v1 and /v1/…; %2F within a segment",
    changes = "/v1 covers /v1 and /v1/…; %2F within a segment" },
  { name = "address", arg = "CIDR", many = true, help = "its hosts may resolve to this private range" },
  { name = "seal-host", arg = "HOST", many = true, help = "where texts that are sealed for it open beside its hosts: sallyport help sealed" },
  { name = "bundle", arg = "BUNDLE", many = true, help = "which bundles hold it; `default` unless named", changes = "which bundles hold it" },
  { name = "env", arg = "NAME", many = true, help = "variables in which the agent's environment gets a placeholder" },
  { name = "placeholder", arg = "SHAPE", help = "its shape: ghp_{36}, or {N:hex}, {N:digit}, {N:alpha}, {N:upper}, {N:url}" },
  { name = "plain-http", help = "may travel without TLS too (adds port 80)" },
  { name = "answer-timeout", arg = "TIME", help = "until its API begins to answer; else the setting of that name" },
  { name = "idle-timeout", arg = "TIME", help = "silence on its streams and WebSockets; else the setting of that name" },
  { name = "upstream-http", arg = "1|2", of = { "1", "2" }, help = "spoken with its hosts; else the setting of that name" },
  { name = "substitute", arg = "FIELD:PLACE[:PLACEHOLDER]", many = true, whole = true,
    help = "the secret goes out where its placeholder stands: header=NAME, query=NAME, form=NAME, json=/POINTER, "
      .. "ws=/POINTER, path=/bot{}/**, basic" },
}

local function with(...)
  local list = {}
  for _, part in ipairs { ... } do table.move(part, 1, #part, #list + 1, list) end
  return list
end

local field_means = {
  url = "hosts are named with --host, paths with --path",
  token = "a secret is a field, without dashes: token=@FILE, token=-, token=env:NAME",
  key = "a secret is a field, without dashes: key=@FILE, key=-, key=env:NAME",
  password = "a secret is a field, without dashes: password=@FILE, password=-, password=env:NAME",
  user = "that is a field, without dashes: username=NAME",
  username = "that is a field, without dashes: username=NAME",
  header = "that is a field, without dashes: header=NAME or headers.NAME=VALUE",
  agent = "agents hold bundles: name the bundle here, and the agent with `agent set NAME --bundle B`",
  hostname = "did you mean --host?",
}

-- ---- types ---------------------------------------------------------------------------------------

local function type_names(no_store)
  local names, all = {}, {}
  if no_store then
    for i, name in ipairs(require "policy_names") do all[i] = require("policy_store").load(name) end
  else
    all = require("cli.policy_versions").list()
  end
  for _, p in ipairs(all) do
    if p.kind == "type" then names[#names + 1] = p.name end
  end
  table.sort(names)
  return names
end

local function load_type(name, no_store)
  local policy = require "policy"
  local pol, why
  if records.name(name) then pol, why = require("policy_store").load(name) end
  if pol and pol.kind == "type" then return pol end
  local names = type_names(no_store)
  local known = false
  for _, n in ipairs(names) do known = known or n == name end
  if known then report.fail(("the type '%s' cannot be used: %s"):format(name, tostring(why)),
    "sallyport policy test " .. name) end
  local near = records.nearest(name, names)
  report.usage(("there is no type '%s'"):format(report.clean(name):sub(1, 40)),
    near and ("did you mean %s?"):format(near) or "types: " .. table.concat(names, ", "))
end

local function shown(value)
  if type(value) ~= "table" then return report.clean(value) end
  if #value > 0 then return report.clean(table.concat(value, " ")) end
  local parts = {}
  for k, v in pairs(value) do parts[#parts + 1] = k .. "=" .. tostring(v) end
  table.sort(parts)
  return report.clean(table.concat(parts, " "))
end

-- All fields, or the one whose value does not fit.
local function field_help(pol, only)
  local lines = {}
  for _, f in ipairs(only and { pol.by_name[only] } or require("policy").fields(pol)) do
    local notes = {}
    if records.is_secret(f) then notes[#notes + 1] = "secret" end
    if f.required then notes[#notes + 1] = "required" end
    if f.default ~= nil and f.default ~= "" then notes[#notes + 1] = "default " .. shown(f.default) end
    if f.values then notes[#notes + 1] = table.concat(f.values, "|") end
    lines[#lines + 1] = { f.name .. (f.type == "map" and ".KEY" or ""),
      (#notes > 0 and "(" .. table.concat(notes, ", ") .. ") " or "") .. (f.help or "") }
  end
  return page.pairs(lines, 24)
end

-- `credential add --type T --help`: what T is, and its fields. Nil: no type is named, so the command's own help.
local function type_help(opt, ctx)
  if not opt.type and not opt.preset then return nil end
  -- A type of the operator's own is in the store; without one the binary's are known.
  local store = ctx.home and ctx.host.stat(ctx.home .. "/store")
  if store then db.open(ctx) end
  local preset = opt.preset and presets.named(opt)
  local pol = load_type(opt.type or preset.type, not store)
  local lines = { ("%s: %s\n"):format(pol.name, pol.title) }
  if preset then
    lines[#lines + 1] = ("--preset %s: %s, for %s. Its key is made at %s\n"):format(preset.name, preset.title, table.concat(preset.hosts, ", "), preset.make)
  end
  lines[#lines + 1] = "fields (FIELD=VALUE; a secret is FIELD=@FILE, FIELD=- or asked for):\n" .. field_help(pol) .. "\n"
  lines[#lines + 1] = ("sallyport policy show %s is its manual,\nsallyport credential add --help the rest.\n"):format(pol.name)
  return table.concat(lines, "\n")
end

-- ---- scope ---------------------------------------------------------------------------------------

--- Each item through its check; the first that fails ends the command.
local function checked(list, check, option, ctx)
  local out, seen = {}, {}
  for _, text in ipairs(list) do
    local value, why, advice = check(text)
    if value == nil then report.usage(("--%s: %s"):format(option, why)) end
    if advice then ctx.note("note: " .. advice) end
    if not seen[value] then
      seen[value] = true
      out[#out + 1] = value
    end
  end
  return out
end

-- The ports and one more: what the operator chose stays.
local function with_port(ports, more)
  local out = {}
  for i, p in ipairs(ports or { 443 }) do
    if p == more then return ports end
    out[i] = p
  end
  out[#out + 1] = more
  return out
end

local function read_scope(plain, opt, ctx)
  if opt.host then plain.hosts = checked(opt.host, records.host, "host", ctx) end
  if opt.method then plain.methods = checked(opt.method, records.method, "method", ctx) end
  if opt.path then plain.paths = checked(opt.path, records.path, "path", ctx) end
  if opt.address then plain.addresses = checked(opt.address, records.cidr, "address", ctx) end
  if opt.seal_host then plain.seal_hosts = checked(opt.seal_host, records.host, "seal-host", ctx) end
  if opt.plain_http then plain.plain_http = true end
  for _, name in ipairs { "answer_timeout", "idle_timeout" } do
    local seconds, why
    if opt[name] then seconds, why = records.duration(opt[name]) end
    if why then report.usage(("--%s: %s"):format(name:gsub("_", "-"), why)) end
    plain[name] = seconds or plain[name]
  end
  if opt.upstream_http then
    plain.upstream_http = ({ ["1"] = 1, ["2"] = 2 })[opt.upstream_http] or report.usage("--upstream-http: 1 or 2")
  end
  if opt.port then
    plain.ports = checked(opt.port, records.port, "port", ctx)
  elseif opt.plain_http then
    plain.ports = with_port(plain.ports, 80)
  end
  if opt.bundle then
    plain.bundles = checked(opt.bundle, records.name, "bundle", ctx)
    for _, b in ipairs(plain.bundles) do db.need("bundle", b) end
  end
end

--- A wildcard that strangers answer is for requests alone that are signed: they send no secret.
local function check_shared(pol, plain, ctx)
  local suffixes = require "cli.suffixes"
  local what = suffixes.sends(pol, plain)
  local host, why, known = suffixes.first(what and plain.hosts)
  local sealed = not host and suffixes.first(plain.seal_hosts)
  if sealed then report.usage(("--seal-host %s: strangers have names there, and what is opened for them is the secret itself"):format(sealed)) end
  if not host then
    local wild = ctx and what and not suffixes.has_list() and table.concat(plain.hosts, " "):match("%*%.[^ ]+")
    if wild then
      ctx.note(("note: whether strangers can have names in %s is looked up in the Public Suffix List, which this machine does "
        .. "not have (Debian: apt install publicsuffix)"):format(wild))
    end
    return
  end
  local own = host:sub(2)
  report.usage(("--host %s: %s%s, and %s sends the secret itself"):format(host, why,
    "*." .. known ~= host and (" (%s)"):format(known) or "", what),
    suffixes.is_deep(known) and ("name each host: --host acme%s"):format(own)
      or ("name each host, or a wildcard of your own below it: --host acme%s, --host *.acme%s"):format(own, own))
end

--- env, placeholder, mint, scrub, keep and attach come as fields (common to all types), the first two as options too.
local function read_env(plain, into, opt)
  local env = opt.env and checked(opt.env, records.env_name, "env") or into.env
  local shape, why = into.placeholder, nil
  if opt.placeholder then shape, why = records.shape(opt.placeholder) end
  if why and not shape then report.usage("--placeholder: " .. why) end
  if env then
    plain.env, plain.env_also = env[1], env[2] and table.move(env, 2, #env, 1, {}) or nil
    env = env[1]
  end
  if shape and not plain.env then report.usage("a placeholder needs the variable that holds it: env=NAME") end
  if shape or env then plain.placeholder = shape or require("presets").shape_for(env, plain.hosts) end
  plain.mint = into.mint or plain.mint
  if into.scrub then plain.scrub = into.scrub ~= "text" and into.scrub or nil end
  if into.keep then plain.keep = into.keep[1] and into.keep or nil end
  if into.attach then plain.attach = into.attach ~= "always" and into.attach or nil end
end

-- A placeholder looks like the key that is kept, as far as that key's public prefix tells its kind: clients look at it
-- before they send one. `chosen`: the operator named a shape. pasted: tokens that are not among the fields.
local function follow_kind(pol, plain, values, chosen, pasted)
  if plain.env_more and pol.env and pol.env.more then
    plain.env_more = {}
    for name, shape in pairs(pol.env.more) do
      local field = pol.env.needs[name]
      plain.env_more[name] = (not field or values[field] ~= nil) and shape or nil
    end
  end
  local known = plain.placeholder == (pol.env and pol.env.shape) or require("presets").is_known_shape(plain.placeholder)
  if not plain.env or chosen or not known then return end
  local list = pasted and { pasted.access_token } or {}
  if pol.env and plain.env == pol.env.name and pol.by_name.access_key_id then list[1] = values.access_key_id end
  for _, f in ipairs(not pol.refresh and pol.fields or {}) do
    if f.secret and f.type ~= "map" and values[f.name] ~= nil then list[#list + 1] = values[f.name] end
  end
  local preset = plain.preset and require("presets").get(plain.preset)
  local usual = preset and preset.placeholder or pol.env and plain.env == pol.env.name and pol.env.shape or nil
  plain.placeholder = require("presets").shape_for(plain.env, plain.hosts, list, usual)
end

local function read_rows(plain, opt)
  if not opt.substitute then return end
  plain.rows = {}
  for i, text in ipairs(opt.substitute) do
    local row, why = rows.parse(text)
    if not row then report.usage("--substitute: " .. why) end
    plain.rows[i] = row
  end
end

--- The rows against the type and the secrets that are set.
local function check_rows(pol, plain, secrets)
  local held = #records.held("anybody", plain) > 0
  local ok, why = rows.check(plain.rows, pol, function(sealed) return secrets[sealed] ~= nil or plain.from ~= nil and plain.from[sealed] ~= nil end, held)
  if not ok then
    report.usage("--substitute: " .. why, "sallyport policy show substitute tells of rows")
  end
end

-- Sealed texts open over TLS alone, so what a call hands out over plain HTTP could never be used. had: the record before | nil
local function check_seal(pol, plain, had)
  local in_the_clear = require("cli.seal_try").in_the_clear
  local row, whose = in_the_clear(pol, plain)
  if not row or had and in_the_clear(pol, had) then return end
  report.usage(("--plain-http: %s seals %s (%s), and a sealed text opens over TLS alone"):format(whose, row.what, require("seal").call(row)),
    "leave --plain-http out; or mint=refuse: no such calls; or mint=allow: the agent gets the secret itself")
end

--- A credential's own certificate and roots, common to all types.
local function read_tls(plain, into)
  plain.client_cert = into.client_cert or plain.client_cert
  plain.ca = into.ca or plain.ca
  if into.tls then plain.tls = into.tls == "legacy" and "legacy" or nil end
end

--- The names of the variables that a record holds, sorted.
local function variables_of(record)
  local set, names = {}, {}
  for _, part in ipairs { record.hosts or {}, record.headers or {}, record.fields or {} } do
    for _, value in pairs(part) do require("variables").note(value, set) end
  end
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Variables that a bundle leaves to its agents, or to a later command.
local function advise_variables(plain, ctx)
  local names = variables_of(plain)
  for _, b in ipairs(names[1] and plain.bundles or {}) do
    local bundle, unset = db.peek("bundle", b, "the bundle"), {}
    for _, name in ipairs(names) do
      if not (bundle and bundle.variables and bundle.variables[name]) then unset[#unset + 1] = name .. "=…" end
    end
    if unset[1] then
      ctx.note(("note: not set yet: sallyport bundle set %s %s (or agent set AGENT, for one agent)"):format(b,
        table.concat(unset, " ")))
    end
  end
end

--- What is no error but seldom meant.
local function advise(plain, ctx)
  advise_variables(plain, ctx)
  for _, t in ipairs(tls.troubles(plain, require("time").wall())) do
    ctx.note(("note: %s %s"):format(t[1], t[2]))
  end
  local addr = require "addr"
  for _, p in ipairs(plain.ports) do
    if p == 80 and not plain.plain_http then
      ctx.note("note: port 80 hardly ever speaks TLS, and without --plain-http this credential goes over TLS only")
    end
  end
  for _, h in ipairs(plain.hosts) do
    local at = h == "localhost" and "127.0.0.1" or h
    local why = addr.parse(at) and addr.guard(at)
    if why and not plain.addresses then
      ctx.note(("note: %s is %s; the address guard refuses it unless you add --address %s"):format(h, why,
        records.cidr(at)))
    end
  end
end

-- ---- showing -------------------------------------------------------------------------------------

local mint_says = {
  allow = "allow: calls that make further credentials go out too", refuse = "refuse: calls that make further credentials are refused",
  seal = "seal: what calls that make further credentials answer is sealed, where it is known",
}

-- Where answers are searched for the credential's secrets, in words.
local function scrub_of(record)
  local where = { head = "heads alone are searched for it (scrub=head)", off = "heads alone are searched for it, without a limit (scrub=off)",
    all = "heads and all bodies are searched for it (scrub=all)" }
  local text = where[record.scrub] or "heads and bodies are searched for it"
  for _, s in ipairs(record.short or {}) do
    if not s.heads then
      text = text .. ("; %s is under 8 bytes, so nothing is searched for it"):format(s.name)
    elseif not record.scrub or record.scrub == "all" then
      text = text .. ("; %s is under 16 bytes, so no body is searched for it"):format(s.name)
    end
  end
  return text
end

local function joined(list, empty) return list and #list > 0 and table.concat(list, ",") or empty end

local function state_of(record)
  local enabled = record.enabled == false and "disabled" or "enabled"
  local pol = require("policy_store").load(record.type)
  if not (pol and pol.connect) then return enabled end
  return ("%s, %s"):format(enabled, token_state.connection(token_state.read(record, require("time").wall())))
end

local function list(_, opt, ctx)
  db.open(ctx)
  local rows, out = {}, report.array()
  for key, record, damaged in db.each("credential", "") do
    if not record or damaged then
      rows[#rows + 1] = { key, "", "", "", "damaged: refused" }
      out[#out + 1] = { name = key, state = "damaged" }
    else
      rows[#rows + 1] = { record.name, record.type, report.several(record.hosts), report.several(record.bundles, "(none)"),
        state_of(record) }
      out[#out + 1] = shape.credential(record)
    end
  end
  if ctx.json then
    ctx.out(report.json(out))
  elseif #rows == 0 then
    ctx.note("There are no credentials yet: sallyport credential add --help")
  else
    ctx.out(terminal.columns(ctx, { "NAME", "TYPE", "HOSTS", "BUNDLES", "STATE" }, rows, 5))
  end
  return 0
end

local function token_lines(line, record, token)
  line("token", token.valid and require("cli.credential_test").ends(token) or "none that is valid")
  line("renewed", token.obtained_at and report.time(token.obtained_at))
  line("next", token.refresh_at and ("renewed by the first request after %s"):format(report.time(token.refresh_at)))
  line("connected", token.connected_at and report.time(token.connected_at))
  if token.scopes and #token.scopes > 0 then line("asked for", report.clean(table.concat(token.scopes, " "))) end
  local asked = token.scopes or record.fields and record.fields.scopes
  if token.granted and (#missing(asked, token.granted, token.renewable) > 0 or #missing(token.granted, asked or {}) > 0) then
    line("granted", #token.granted > 0 and report.clean(table.concat(token.granted, " ")) or "no scope")
  end
  if token.wanted then
    line("wants", ("%s: sallyport connect %s"):format(#token.wanted > 0 and "the scopes "
      .. report.clean(table.concat(token.wanted, " ")) or "more scopes than it has", record.name))
  end
  if token.refused_at then
    line("refused", ("an API answered 401 at %s, and nothing can renew it"):format(report.time(token.refused_at)))
  end
  if token.last_error then
    line("last error", ("%s%s at %s"):format(token.last_error, token.error_detail and " (" .. token.error_detail .. ")" or "",
      report.time(token.last_error_at) or "?"))
    line("because", token.error_why and report.clean(require("cli.policy_hints").of(token.error_why)))
  end
end

local function show(args, _, ctx)
  db.open(ctx)
  local record = db.need("credential", args[1])
  local now = require("time").wall()
  local token = token_state.read(record, now)
  local refused = require("refused").last(record, token and token.obtained_at)
  if ctx.json then
    ctx.out(report.json(shape.credential(record, now)))
    return 0
  end
  local lines = {}
  local function line(name, value)
    if value and value ~= "" then lines[#lines + 1] = { name, value } end
  end
  line("name", record.name)
  line("type", record.type)
  line("state", record.enabled == false and "disabled" or "enabled")
  for i, host in ipairs(record.hosts) do lines[#lines + 1] = { i == 1 and "hosts" or "", host } end
  line("ports", joined(record.ports) .. (record.plain_http and " (plain HTTP too)" or ""))
  line("methods", joined(record.methods, "all"))
  line("paths", joined(record.paths, "all"))
  line("addresses", joined(record.addresses, nil))
  line("answers in", record.answer_timeout and records.span(record.answer_timeout))
  line("silent for", record.idle_timeout and records.span(record.idle_timeout))
  line("upstream", record.upstream_http and "HTTP/" .. record.upstream_http)
  line("bundles", joined(record.bundles, "(none)"))
  line("variables", joined(variables_of(record), nil))
  line("preset", record.preset)
  line("env", record.env and ("%s, shaped %s"):format(table.concat({ record.env,
    table.unpack(record.env_also or {}) }, ", "), record.placeholder or "") or nil)
  for _, row in ipairs(record.rows or {}) do line("substitute", rows.spoken(row)) end
  local mend = rows.mend(record, record.preset and require("presets").get(record.preset))
  if mend then line("refused", "a row of it names no place; name it: " .. mend) end
  line("mint", mint_says[record.mint])
  local pol = require("policy_store").load(record.type)
  local sealing = pol and require("seal").rows_of(pol, record.preset and require("presets").get(record.preset))
  for i, row in ipairs(record.mint ~= "allow" and record.mint ~= "refuse" and sealing or {}) do
    lines[#lines + 1] = { i == 1 and "seals" or "", ("%s: %s"):format(require("seal").call(row), row.what) }
  end
  line("opens at", joined(record.seal_hosts, nil))
  line("answers", scrub_of(record))
  line("keep", joined(record.keep, nil))
  line("attach", record.attach == "placeholder" and "placeholder: a key of the agent's own is refused"
    or record.attach and "placeholder:own: a key of the agent's own passes, and nothing is attached")
  line("created", report.time(record.created))
  for _, r in ipairs(tls.rows(record, now)) do line(r[1], report.clean(r[2])) end
  local rest = {}
  for name, value in pairs(record.fields or {}) do rest[#rest + 1] = { name, shown(value) } end
  for name, members in pairs(record.split or {}) do
    for member, value in pairs(members) do rest[#rest + 1] = { name .. "." .. member, shown(value) } end
  end
  for name, value in pairs(record.headers or {}) do rest[#rest + 1] = { "headers." .. name, shown(value) } end
  local pol = require("policy_store").load(record.type)
  for _, f in ipairs(pol and require("policy").fields(pol) or {}) do      -- where its secrets go, whoever chose it
    if f.type == "url" and f.default and (record.fields or {})[f.name] == nil then rest[#rest + 1] = { f.name, shown(f.default) .. " (default)" } end
  end
  local away = {}
  for sealed, text in pairs(record.from or {}) do
    away[require("elsewhere").label(sealed)] = ("(secret, from %s; kept for %s)"):format(report.clean(text), records.span(record.ttl or require("elsewhere").TTL))
  end
  for _, name in ipairs(shape.secrets(record)) do rest[#rest + 1] = { name, away[name] or "(secret, set)" } end
  table.sort(rest, function(a, b) return a[1] < b[1] end)
  for _, r in ipairs(rest) do line(r[1], r[2]) end
  if pol and pol.connect then line("account", token_state.connection(token)) end
  if token then token_lines(line, record, token) end
  if refused and not (token and token.refused_at) then
    line("refused", ("%s answered 401 to it at %s: sallyport credential test %s"):format(require("errors").host(refused.host), report.time(refused.at),
      record.name))
  end
  ctx.out(terminal.columns(ctx, nil, lines, { state = true, account = true }))
  return 0
end

-- ---- writing -------------------------------------------------------------------------------------

--- The type's own checks; then the record's plain members are complete, and the answer is what is sealed.
local function settle(pol, plain, into)
  local policy, variables = require "policy", require "variables"
  local sample = {}   -- what stands in a variable's place is judged again when a value does
  for name, value in pairs(into.values) do
    local spec, names = pol.by_name[name], {}
    local varied = spec and variables.field_types[spec.type] and not records.is_secret(spec)
    if varied then variables.note(value, names) end
    if next(names) and pol.refresh then
      report.usage(("%s holds ${%s}, and %s keeps one token for all agents: its fields take no variables"):format(name,
        next(names), pol.name), "hosts and headers.NAME may hold them; or add a credential for each")
    end
    sample[name] = varied and variables.sample(value) or value
  end
  local away = {}     -- fields whose value cannot be had now: what is to be checked of it is checked when it is fetched
  for sealed, e in pairs(into.from) do
    local name = sealed:match("^f/([^/]+)$")
    away[1] = away[1] or e.code ~= nil
    if name and e.code and rawequal(into.values[name], e.value) then away[name] = true end
  end
  local judge = pol
  if away[1] then
    judge = setmetatable({ fields = {}, validate = false }, { __index = pol })
    for i, f in ipairs(pol.fields) do
      judge.fields[i] = away[f.name] and setmetatable({ required = false }, { __index = f }) or f
      if away[f.name] then sample[f.name] = nil end
    end
  end
  local ok, field, message = policy.check_credential(judge, sample, plain.hosts)
  if not ok then
    report.usage(field and ("%s %s"):format(field, tostring(message)) or tostring(message),
      sample[field] ~= nil and (field_help(pol, field):gsub("^ +", ""))
        or ("fields of %s:\n%s"):format(pol.name, field_help(pol)))
  end
  local secrets, names = nil, {}
  plain.fields, plain.split, secrets = fields.parts(policy.fields(pol), into.values)
  plain.headers = next(into.headers) and into.headers or nil
  for sealed, handle in pairs(into.sealed) do
    secrets[sealed] = handle
    names[#names + 1] = sealed:match("^h/(.+)$")
  end
  local key = into.from["c/client_key"]
  if not (key and key.code and rawequal(secrets["c/client_key"], key.value)) then tls.check(plain, secrets) end
  local count = 0
  for _ in pairs(secrets) do count = count + 1 end
  if count > SECRETS_MAX then
    report.usage(("more than %d secrets in one credential"):format(SECRETS_MAX), "each answer is searched for all of them: add another credential")
  end
  table.sort(names)
  plain.secret_headers = #names > 0 and names or nil
  for sealed, e in pairs(into.from) do
    if e.code and rawequal(secrets[sealed], e.value) then secrets[sealed] = nil end
  end
  plain.short = scrub.short(pol, secrets)
  plain.split = plain.split or {}
  plain.from = fields.sources(into, plain.split, secrets)
  plain.ttl = plain.from and into.ttl or nil
  if not next(plain.split) then plain.split = nil end
  if into.new_ttl and not plain.from then report.usage("ttl is for secrets from elsewhere (exec:NAME, file:PATH)", "sallyport help elsewhere") end
  return secrets
end

-- Secrets that could not be had when they were typed.
local function advise_elsewhere(typed, ctx)
  for _, e in pairs(typed.from) do
    if e.code then
      ctx.note(("note: %s cannot be had now: %s%s; until it can, requests are refused (sallyport doctor)"):format(e.label,
        require("elsewhere").sentence(e.code), e.detail and " (" .. report.clean(e.detail) .. ")" or ""))
    end
  end
end

local function taken(name)
  report.fail(("there is a credential '%s' already"):format(name),
    ("sallyport credential set %s … changes it"):format(name))
end

-- Tokens that come from elsewhere, for a type that a person connects: taken out of the arguments.
-- -> the other arguments, { access_token =, refresh_token = } or nil
local function pasted_tokens(ctx, pol, texts)
  local rest, pasted = {}, nil
  for _, text in ipairs(texts) do
    local a = pol.connect and fields.assignment(ctx, text)
    if a and (a.name == "access_token" or a.name == "refresh_token") and not a.key then
      pasted = pasted or {}
      pasted[a.name] = fields.secret(ctx, a, a.name)
    else
      rest[#rest + 1] = text
    end
  end
  return rest, pasted
end

-- What to do about a refresh token that did not work: where nothing of it went out, it is as good as before.
local function advice(code, instead)
  return require("cli.authorization").unsent[code] and "it was not sent: it can be pasted again once that is mended"
    or "a refresh token that was used already is spent: get a new one, or " .. instead
end

-- The credential and its tokens together, once the server has taken the refresh token.
local function add_pasted(ctx, name, op, pasted)
  local connect = require "cli.authorization"
  local env, trouble = connect.env(ctx)
  if not env then report.fail(trouble) end
  local ok, code, sentence = connect.adopt(env, name, { op }, pasted)
  if ok then return end
  if code == "conflict" then taken(name) end
  report.fail(("nothing was kept, for the refresh token did not work: %s"):format(sentence or require("token").sentence(code)),
    advice(code, "add it without and `sallyport connect` it"))
end

-- The same for one that is there: record and grant change together, or not at all.
local function set_pasted(ctx, name, build, pasted)
  local connect = require "cli.authorization"
  local env, trouble = connect.env(ctx)
  if not env then report.fail(trouble) end
  local ok, code, detail = connect.replace(env, name, build, pasted)
  if ok then return end
  local function said(c, more) return connect.say[c] or require("token").sentence(c, more) end
  if code == "unstored" then
    report.fail(("the refresh token works, and is spent, but what came for it could not be stored: %s"):format(said(detail)),
      ("the grant that was there is as it was; else get a new refresh token, or sallyport connect %s"):format(name))
  end
  report.fail(("nothing was changed, for the refresh token did not work: %s"):format(said(code, detail)),
    advice(code, "`sallyport connect` " .. name))
end

-- Whoever holds the page must not have programs of the operator's print for a host of theirs.
local function no_program(ctx, pol)
  if ctx.page and require("web.bounds").runs(pol) then
    report.fail(("programs run for the type %s: its credentials are made and changed on the command line"):format(pol.name))
  end
end

local function add(args, opt, ctx)
  local name, why = records.name(args[1])
  if not name then report.usage(why) end
  db.open(ctx)
  if db.peek("credential", name, "the credential") then taken(name) end
  local preset = presets.named(opt)
  if not opt.type then
    report.usage("--type is missing, or --preset for a well-known API",
      "types: " .. table.concat(type_names(), ", ") .. "\n  sallyport credential presets lists the APIs")
  end
  local pol = load_type(opt.type)
  no_program(ctx, pol)
  opt.host = opt.host or pol.hosts
  if not opt.host then report.usage("--host is missing: it says where the secret may go",
    "--host api.example.com") end
  local plain = { name = name, type = pol.name, ports = { 443 }, bundles = { "default" }, enabled = not opt.off }    -- off: a proposal alone says so
  local specs = require("policy").fields(pol)
  read_scope(plain, opt, ctx)   -- everything that can be wrong is said before a secret is asked for
  check_shared(pol, plain)
  local given, pasted = pasted_tokens(ctx, pol, table.move(args, 2, #args, 1, {}))
  local into = fields.read(ctx, specs, given, true)
  local chosen = opt.placeholder or into.placeholder
  if preset then presets.lay(preset, plain, into, opt, ctx) end
  if pol.env and pol.env.name and not (into.env or opt.env) then
    opt.env, plain.env_more = { pol.env.name }, pol.env.more
    if not into.placeholder then opt.placeholder = opt.placeholder or pol.env.shape end
  end
  read_env(plain, into, opt)
  read_rows(plain, opt)
  read_tls(plain, into)
  fields.ask(ctx, specs, into, preset and preset.ask)
  follow_kind(pol, plain, into.values, chosen, pasted)
  local secrets = settle(pol, plain, into)
  check_seal(pol, plain)
  check_rows(pol, plain, secrets)
  check_shared(pol, plain, ctx) -- with its rows and headers
  plain.created = require("time").wall()
  local function op()
    if db.peek("credential", name, "the credential") then taken(name) end
    plain.order = require("store").generation()
    return { op = "put", db = "credential", key = name, version = 0, plain = plain, secrets = secrets }
  end
  if pasted and ctx.gathers then
    ctx.gathers.pasted = ctx.gathers.pasted or {}
    table.insert(ctx.gathers.pasted, { name = name, op = op, secrets = pasted })
  elseif pasted then
    add_pasted(ctx, name, op(), pasted)
  else
    db.change(function() return { op() } end, ctx)
  end
  local files = preset and presets.open_files(preset, plain) or {}
  advise(plain, ctx)
  advise_elsewhere(into, ctx)
  for _, s in ipairs(plain.short or {}) do
    ctx.note(("note: %s is %s: %s"):format(s.name, s.heads and "under 16 bytes" or "under 8 bytes", s.heads
      and "an answer's head is searched for it, a body is not" or "no answer is searched for it, for it may be any word"))
  end
  if ctx.gathers then return 0 end
  local me, trial = require("cli.home").command(ctx), require "cli.credential_test"
  local url = trial.root_url(plain)
  local example = url:gsub("//….", "//any."):gsub("…", "tenant")   -- explain takes no gap
  ctx.note(("Kept '%s' for %s, in %s. %s\n"
    .. "  %s credential test %s\n  %s explain GET %s"):format(name, report.several(plain.hosts), joined(plain.bundles),
    not plain.from and "Its secret is sealed and no command shows it again." or "Its secret is fetched when it is needed, and never kept here.",
    me, name .. (trial.needs_url(plain) and " " .. url or ""), me, example))
  local led, more = require("web.bounds").leads_now(plain, 10)
  if led[1] then
    for i, text in ipairs(led) do led[i] = report.clean(text) end
    ctx.note(("note: variables say where its secret goes, as they are set now:\n  %s%s"):format(table.concat(led, "\n  "), more > 0 and ("\n  and %d more"):format(more) or ""))
  end
  if files[1] then
    ctx.note(("Its answers lead elsewhere, or its libraries look there first: agents may read there, without the credential:\n"
      .. "  %s\n  (until `credential remove %s`, or one by one: domain remove %s HOST)"):format(table.concat(files, "\n  "), name, plain.bundles[1]))
  end
  report.answer(ctx, shape.credential_named(name))
  if pol.connect and not pasted then ctx.note(("Next, sign in to the account:\n  %s connect %s"):format(me, name)) end
  return 0
end

local clearable = { method = "methods", path = "paths", address = "addresses", env = "env",
  placeholder = "placeholder", keep = "keep", attach = "attach", ["seal-host"] = "seal_hosts",
  ["answer-timeout"] = "answer_timeout", ["idle-timeout"] = "idle_timeout", ["upstream-http"] = "upstream_http",
  ["plain-http"] = "plain_http", bundle = "bundles", substitute = "rows", client_cert = "client_cert", ca = "ca", tls = "tls",
  mint = "mint", scrub = "scrub", preset = "preset" }

--- What --clear names goes: a part of the scope, a field, a map's member, or headers.NAME.
local function clear(plain, kept, names, specs)
  for _, n in ipairs(names or {}) do
    local name, member = n:match("^([^.]+)%.?(.*)$")
    local known = false
    for _, s in ipairs(specs) do known = known or s.name == name end
    if n == "ttl" and not known then
      kept.ttl = nil
    elseif clearable[n] then
      plain[clearable[n]] = n == "bundle" and {} or nil
      if n == "env" then plain.placeholder, plain.env_also, plain.env_more = nil, nil, nil end
      if n == "client_cert" then kept.sealed["c/client_key"] = nil end
    elseif name == "headers" and member ~= "" then
      kept.headers[member:lower()], kept.sealed["h/" .. member:lower()] = nil, nil
    elseif not known then
      report.usage(("--clear does not know '%s'"):format(report.clean(n):sub(1, 40)),
        "it takes method, path, address, seal-host, env, placeholder, plain-http, answer-timeout, idle-timeout, upstream-http, bundle, substitute, preset, "
          .. "client_cert, ca, tls, mint, scrub, attach, keep, a field, or headers.NAME")
    elseif member ~= "" and type(kept.values[name]) == "table" then
      kept.values[name][member] = nil
    else
      kept.values[name] = nil
    end
  end
end

local function set(args, opt, ctx)
  local given = table.move(args, 2, #args, 1, {})
  db.open(ctx)
  local record = db.need("credential", args[1])
  if #given == 0 and not next(opt) then report.usage("nothing to change was named",
    "sallyport credential set --help") end
  no_program(ctx, load_type(record.type))
  local typed, plain, pasted, reshaped   -- secrets are read once, however often the commit is tried
  given, pasted = pasted_tokens(ctx, load_type(record.type), given)
  local function build()
    local now, why = require("store").get("credential", args[1])
    if not now then report.fail(("the credential cannot be read: %s"):format(tostring(why)),
      "remove it and add it again") end
    local pol = load_type(now.type)
    local specs = require("policy").fields(pol)
    plain = db.plain(now)
    local kept = fields.kept(now, true)
    clear(plain, kept, opt.clear, specs)
    if opt.preset then presets.attach(plain, opt.preset) end
    read_scope(plain, opt, ctx)
    typed = typed or fields.read(ctx, specs, given, true)
    read_env(plain, typed, opt)
    read_rows(plain, opt)
    read_tls(plain, typed)
    fields.over(kept, typed, specs)
    local shape = plain.placeholder
    local anew = opt.env or typed.env or pasted
    for name in pairs(typed.values) do anew = anew or records.is_secret(pol.by_name[name]) or name == "access_key_id" end
    if anew then
      follow_kind(pol, plain, kept.values, opt.placeholder or typed.placeholder, pasted)
    end
    reshaped = shape and plain.env and plain.placeholder ~= shape
    local secrets = settle(pol, plain, kept)
    check_seal(pol, plain, db.plain(now))
    check_rows(pol, plain, secrets)
    if opt.host or opt.seal_host or opt.substitute or next(typed.sealed) then check_shared(pol, plain, ctx) end
    return { op = "put", db = "credential", key = plain.name, version = now.version, plain = plain, secrets = secrets,
      moves = not records.same(now.from, plain.from) }
  end
  if pasted then
    set_pasted(ctx, args[1], build, pasted)
  else
    db.change(function() return { build() } end, ctx)
  end
  advise(plain, ctx)
  advise_elsewhere(typed, ctx)
  if reshaped then
    ctx.note(("note: its placeholder looks like %s now, and the one before stands for nothing: agents need a new `%s env`"):format(
      plain.placeholder, require("cli.home").command(ctx)))
  end
  ctx.note(("Changed '%s'; it counts from the next request."):format(plain.name))
  report.answer(ctx, shape.credential_named(plain.name))
  if typed.values.scopes and not pasted and load_type(plain.type).connect and require("store").peek("state", plain.name) then
    ctx.note(("A grant keeps the scopes that it was given: sallyport connect %s asks for these."):format(plain.name))
  end
  return 0
end

--- enable and disable.
local function switch(on)
  return function(args, _, ctx)
    db.open(ctx)
    db.switch("credential", args[1], function() return db.need("credential", args[1]) end, on, not on)
    ctx.note(("'%s' is %s from the next request."):format(args[1], on and "enabled" or "disabled"))
    report.answer(ctx, shape.credential_named(args[1]))
    return 0
  end
end

local function remove(args, _, ctx)
  db.open(ctx)
  local store = require "store"
  for _, name in ipairs(args) do
    local _, code = store.peek("credential", name)
    if code ~= "damaged" then db.need("credential", name) end   -- a damaged one can always be removed
  end
  local names = {}
  for _, name in ipairs(args) do names[name] = true end
  db.change(function()
    local ops = presets.close_files(names)
    for _, name in ipairs(args) do
      for _, where in ipairs { "credential", "state", "lease" } do
        ops[#ops + 1] = { op = "del", db = where, key = name }
      end
      ops[#ops + 1] = { op = "del", db = "lease", key = require("refused").key(name) }
      for key in db.each("state", stand_in.key_record("", name)) do ops[#ops + 1] = { op = "del", db = "state", key = key } end
    end
    return ops
  end)
  ctx.note(("Removed %s."):format(table.concat(args, ", ")))
  report.answer(ctx, { removed = report.array(args) })
  return 0
end

-- ---- test ----------------------------------------------------------------------------------------

local function test(args, opt, ctx)
  db.open(ctx)
  local record = db.need("credential", args[1])
  return require("cli.credential_test").run(record, args[2], opt, ctx)
end

-- The first example in the manual comment of each type that this binary brings.
local function type_examples()
  local sandbox, out = require "sandbox", {}
  for _, name in ipairs(require "policy_names") do
    local line, more = sandbox.default_source(name):match("\n%-%- +(sallyport credential add [^\n]*)(.*)")
    while line and line:find("\\$") do
      out[#out + 1] = "  " .. line
      line, more = more:match("^\n%-%- +([^\n]*)(.*)")
      line = line and "    " .. line
    end
    if line and name ~= "presets" then out[#out + 1] = "  " .. line end
  end
  return table.concat(out, "\n") .. "\n"
end

local fields_help = [[

Fields belong to the type; `sallyport policy show TYPE` prints it. A plain field is literal: header=x-api-key.
A secret is never written on the command line, where the shell's history and `ps` would keep it; one final newline
of it is dropped:
]] .. page.pairs({
  { "token=@FILE", "from a file" }, { "token=-", "from standard input" }, { "token=env:NAME", "from a variable" },
  { "(left out)", "asked on the terminal, not shown" },
  { "token=exec:NAME, token=file:PATH", "not kept here: a program prints it, or a file has it, each time it is needed (ttl=5m: kept in "
    .. "memory for so long); sallyport help elsewhere" } }, 30) .. [[


All types have these too:
]] .. page.pairs({
  { "headers.NAME=VALUE", "a header of every request; a literal is plain, @FILE, - and env:NAME are secret" },
  { "client_cert=@FILE client_key=@FILE",
    "mutual TLS with its hosts and its token endpoint: PEM, the certificate first, its issuers after it" },
  { "ca=@FILE", "trusts further roots for them; a certificate that the server itself shows may stand there too, "
    .. "whatever name is in it" },
  { "ca=sha256:HEX", "trusts that certificate, or that public key, alone" },
  { "tls=legacy", "for an old box of your own network: takes its CN where it has no subjectAltName, and CBC ciphers; "
    .. "tls=strict again" },
  { "mint=refuse|seal|allow", "calls that make further credentials: refused (403 mint_denied); sealed, where it is known what they "
    .. "answer (sallyport help sealed); let through. Without it each is as its type or preset has it" },
  { "scrub=text", "an answer that repeats the secret gets the placeholder in its place: heads, texts, and any body of up to 1 MiB "
    .. "(the default). scrub=all: all bodies; head: none; off: none, and no limit of hits" },
  { "attach=placeholder", "attached where its placeholder stands, or no key at all; another key is refused "
    .. "(403 foreign_credential). placeholder:own lets another key pass, with nothing attached: a session's, for one" },
  { "keep=NAME,NAME", "headers, parameters and cookies with a key of the agent's own that go out beside it (else "
    .. "they are taken off, and the log says so)" },
  { "env=, placeholder=", "the options of these names" } }, 20) .. [[


Where --method or --path restricts, what makes a server see another request goes: X-HTTP-Method-Override, X-Original-URL
and their kin, _method in the query, and in the form of a POST. A POST whose JSON or multipart body
says _method is refused, and so is one of these that cannot be looked into, or is over body-max, or a batch of requests
(multipart, $batch) with one of another method. X-Forwarded-Host and its kin always go. What names a second place
(x-amz-copy-source, x-ms-rename-source, Destination of WebDAV, X-Vault-Namespace, WordPress's ?rest_route=) is judged
by the same rules as the path itself; places in a body (a list of keys to delete) are not looked for.
]]

local variables_help = [[

${NAME} in a plain field, a header's value or, as one whole label, a host is a variable: the agent's own
(`agent set A NAME=VALUE`), else that of the bundle through which the agent has the credential (`bundle set B
NAME=VALUE`). $${NAME} is that text itself.
]]

return {
  { words = "credential add", help_of = type_help, args = "NAME --preset API | --type TYPE --host HOST … [FIELD=VALUE …]", min = 1, fields = true,
    means = field_means, summary = "keep a secret and say where it may go",
    options = with({ { name = "preset", arg = "API", help = "a well-known API: `credential presets` lists them" },
      { name = "type", arg = "TYPE", help = "how it becomes authentication: bearer, basic, api_key, …" } },
      scope_options),
    help = function() return [[
Keeps a credential: its secret sealed, and where it may go. Requests of agents that hold its bundle carry
it to those hosts, and nowhere else.
]] .. fields_help .. variables_help .. [[

examples:
  sallyport credential add gh --preset github
  sallyport credential add drive --preset google-oauth client_id=… scopes=…
  sallyport credential add jira --preset atlassian --host acme.atlassian.net username=me@acme.example password=@token
  sallyport credential add wiki --type basic --host '${TENANT}.example.net' username=bot password=@pass.txt
  sallyport credential add nas --type basic --host nas.internal --address 192.168.1.0/24 username=admin \
      ca=@nas-certificate.pem
  sallyport credential add shop --type hmac --host api.shop.example key=@secret.txt string='{timestamp}{method}{target}{body}' \
      set.X-Timestamp={timestamp} set.X-Signature={signature}
  sallyport credential add mcp --type command --host mcp.example.com program=mcp-headers ttl=900
  sallyport credential add bank --type bearer --host api.bank.example token=- client_cert=@me.pem client_key=@me.key
  pass show search | sallyport credential add search --type api_key --host api.search.test --path /v1 --method GET key=-

and one of each type; `sallyport policy show TYPE` has its manual:
]] .. type_examples() end, run = add },
  { words = "credential presets", args = "[API]", max = 1, summary = "well-known APIs, for --preset", help = [[
Lists the APIs that need no more than `--preset`: what each is, and where its key is made. With a name it shows
everything about one. They are a policy: `sallyport policy edit presets` adds your own.

examples:
  sallyport credential presets
  sallyport credential presets github
  sallyport credential presets --json | jq -r '.[].name'
]], run = presets.run },
  { words = "credential list", max = 0, summary = "names, types, hosts; never a secret", help = [[
Lists credentials. With --json it prints everything but the secrets, and those by name.

example:
  sallyport credential list --json | jq '.[].hosts'
]], run = list },
  { words = "credential show", args = "NAME", min = 1, max = 1,
    summary = "one credential, secrets as '(secret, set)'",
    help = [[
Shows where a credential may go, its plain fields, which secrets are set, and how its token stands.
No command shows a secret again.

example:
  sallyport credential show gh
]], run = show },
  { words = "credential set", args = "NAME [options] [FIELD=VALUE …]", min = 1, fields = true, means = field_means,
    summary = "change its scope or fields",
    options = with(report.changing(scope_options), {
      { name = "preset", arg = "API", help = "a well-known API's guards: what is stripped and refused; the scope stays" },
      { name = "clear", arg = "WHAT", many = true,
      help = "take away: method, path, address, seal-host, env, placeholder, plain-http, bundle, substitute, answer-timeout, idle-timeout, upstream-http, client_cert, ca, tls, mint, "
        .. "attach, keep, preset, a field, headers.NAME" } }),
    help = [[
Changes what is named and keeps the rest. A list option replaces the whole list. Tokens of an account that is
connected elsewhere, access_token=@FILE refresh_token=@FILE, replace the grant: a refresh token is exercised at once,
and where that fails nothing changes.
]] .. fields_help .. [[

examples:
  sallyport credential set gh token=@new-token.txt
  sallyport credential set gh --host api.github.com --host uploads.github.com
  sallyport credential set drive refresh_token=@new-refresh-token.txt
  sallyport credential set gh --clear path --clear headers.x-team
]], run = set },
  { words = "credential enable", args = "NAME", min = 1, max = 1, summary = "use it again",
    help = [[
Undoes `credential disable`, from the next request.

example:
  sallyport credential enable gh
]], run = switch(true) },
  { words = "credential disable", args = "NAME", min = 1, max = 1, summary = "keep it, but use it no more",
    help = [[
From the next request nothing carries it; its hosts are refused unless something else allows them.

example:
  sallyport credential disable gh
]], run = switch(false) },
  { words = "credential test", args = "NAME [URL]", min = 1, max = 2,
    summary = "try it: token, one small read, status",
    options = { { name = "agent", arg = "AGENT", help = "with this agent's variables; else its bundle's" },
      { name = "helpers", arg = "DIR", help = "programs for the type command; else as `serve` has them" } },
    help = [[
Fetches a token where the type has one, then sends one GET with the credential to the URL and says what came
back, and what was set: names, never values. The URL must be one that the credential may go to; left out, it is
the small read that its preset knows, or the root of its first host. Upstreams are reached as by the proxy that
runs, with its flags. Where a secret belongs into the URL by a row, its placeholder here is {FIELD}.

examples:
  sallyport credential test gh
  sallyport credential test crm https://api.crm.example/v1/me
  sallyport credential test bot 'https://api.telegram.org/bot{value}/getMe'
]], run = test },
  require "cli.sandbox_file",
  { words = "credential remove", args = "NAME …", min = 1, summary = "forget it, its token too", help = [[
Forgets the credential and its tokens at once. Nothing is revoked at the provider: `disconnect` an account first.

example:
  sallyport credential remove gh
]], run = remove },
}
