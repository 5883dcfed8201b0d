--- Forms of the operator's page: made from the table of commands and from the fields of types, and carried out by the command.
local bounds = require "web.bounds"
local commands = require "web.commands"
local page = require "web.page"
local records = require "records"
local html, prose = page.sparse, page.prose
local M = {}

local IN_ADDRESS = 1000 -- characters of an input that goes into the address, whose head ends at 64 KiB
local OFFERED = 200     -- names that an input offers
local NAMED = 12        -- and that a sentence says
local KEPT_MAX = 32     -- answers that wait to be shown; a person looks at each at once

-- ---- the inputs ----------------------------------------------------------------------------------

-- A help of the command line as a sentence of a page.
local function sentence(text)
  if (text or "") == "" then return "" end
  if not text:find("^%l+[:_=/.]%S") then text = text:gsub("^%l", string.upper) end      -- tools:read is a name
  return text:find("[.?…]$") and text or text .. "."
end

-- What an input is called where its name says too little.
local called = { ttl = "ends after", uid = "user of this machine", totp = "authenticator app", from = "source address", requests = "requests at once", env = "variables with a placeholder",
  placeholder = "placeholder's shape", ["seal-host"] = "sealed texts open at", ["plain-http"] = "without TLS too", ["answer-timeout"] = "answers within", ["idle-timeout"] = "may be silent for",
  ["upstream-http"] = "HTTP version", substitute = "put in a placeholder's place", address = "may resolve to", tunnel = "relayed unread", tls = "old TLS", read = "tools that only read",
  redirect = "answers may go to", public = "without a secret", operator = "may use this page", approve = "may answer what agents ask", ["no-approve"] = "may not answer any more",
  ["no-operator"] = "may not use this page any more", ["no-totp"] = "without an authenticator app", link = "a new link", ["ask-again"] = "ask again",
  port = "ports", method = "methods", path = "below these paths", bundle = "bundles", host = "hosts", scope = "scopes", tenant = "tenants", gateway = "gateways", tool = "tools", ["disable-variable"] = "disabled variables", clear = "secrets to take away" }
-- Those of them that are a list in some commands alone.
local one_of = { bundle = true, host = true, tenant = true, gateway = true, scope = true }

local spans = { answer_timeout = true, idle_timeout = true, ttl = true }
local fields_called = { ttl = "lifetime", pkce = "PKCE", jwt = "JWT" }

local function label_of(text)
  return ((fields_called[text] or text):gsub("[_-]", " "):gsub("%f[%w]u[rR][lLiI]%f[%W]", string.upper):gsub("^%l", string.upper))
end

local function flat(text) return (text:gsub("\r\n?", "\n"):match("^%s*(.-)%s*$")) end

local function input(spec, form, fault)
  local id, value = "i-" .. spec.name, form[spec.name] or spec.default or ""
  local about = id .. "-help"
  local wrong = fault and fault.at == spec.name
  local attrs = html('id="{id}" name="{name}" aria-describedby="{about}"{max}{wrong}{required}',
    { id = id, name = spec.name, about = about, max = spec.max and html(' maxlength="{n}"', { n = spec.max }),
    wrong = wrong and html ' aria-invalid="true"', required = spec.required and html " required" })
  local box
  if spec.kind == "switch" then
    return html('<label class="on"><input type="checkbox" value="on"{on} {attrs}> {label}</label><small id="{about}">{help}</small>',
      { attrs = attrs, on = (form[spec.name] or spec.default and not form.csrf) and html " checked", label = label_of(spec.label), about = about,
        help = prose(sentence(spec.help)) })
  elseif spec.kind == "choice" then
    local list = {}
    for i, v in ipairs(spec.values) do
      list[i] = html('<option value="{v}"{on}>{t}</option>', { v = v, on = v == value and html " selected", t = spec.titles and spec.titles[v] or v })
    end
    box = html("<select {attrs}><option></option>{list}</select>", { attrs = attrs, list = list })
  elseif spec.kind == "secret" then
    box = html('<input type="password" autocomplete="off" spellcheck="false" placeholder="{hint}" {attrs}>',
      { attrs = attrs, hint = spec.hint or "" })
  elseif spec.kind == "lines" then
    box = html('<textarea rows="{rows}" spellcheck="false" autocomplete="off" {attrs}>\n{value}</textarea>',
      { attrs = attrs, value = spec.secret and "" or value, rows = spec.rows or 3 })
  else
    box = html('<input value="{value}" spellcheck="false" autocapitalize="none" autocomplete="off"{list} {attrs}>',
      { attrs = attrs, value = value,
      list = spec.list and html(' list="{l}"', { l = id .. "-list" }) })
    if spec.list then
      local items = {}
      for i, v in ipairs(spec.list) do items[i] = html('<option value="{v}">', { v = v }) end
      box = html('{box}<datalist id="{id}-list">{items}</datalist>', { box = box, id = id, items = items })
    end
  end
  local other = fault and fault.changed and not (spec.secret or spec.kind == "secret") and flat(spec.default or "") ~= flat(value)
  return html('<label for="{id}">{label}</label>{box}<small id="{about}">{help}{now}{wrong}</small>',
    { id = id, label = label_of(spec.label), box = box, about = about,
    now = other and html(" <strong>It is now: {d}</strong>", { d = spec.default and flat(spec.default):gsub("\n", ", ") or "empty" }),
    help = prose(sentence(spec.help)), wrong = wrong and html(' <span class="bad">{m}</span>', { m = prose(fault.message) }) })
end

local function hashed(value) return require("host").sha256_hex(require("json").encode(value)):sub(1, 16) end

local function ask_rule(desk, form)
  local got = commands.run({ "rule", "show", form.a1 or "" }, { home = desk.home, asked = desk.who })
  return not got.error and type(got.value) == "table" and got.value or nil
end

local function names(desk, kind)
  local out = {}
  local words = { AGENT = "agent", BUNDLE = "bundle", CREDENTIAL = "credential", TENANT = "tenant", GATEWAY = "gateway",
    ROLE = "role" }
  if not words[kind] then return nil end
  local got = commands.run({ words[kind], "list" }, { home = desk.home, asked = desk.who })
  for i, item in ipairs(type(got.value) == "table" and got.value or {}) do
    if i <= OFFERED then out[i] = item.name end
  end
  return out[1] and out or nil
end

-- Which names a box of lines may have, in words.
local function there(list)
  if not list then return "" end
  return (" There %s %s%s."):format(list[2] and "are" or "is", table.concat(list, ", ", 1, math.min(#list, NAMED)), #list > NAMED and ", …" or "")
end

-- The names of a command's arguments: "BUNDLE HOST [options]" -> { "BUNDLE", "HOST" }; the last may come again; one that may stand behind them | nil
local function arguments(c)
  local out, several = {}, false
  for word in (c.args or ""):gsub("%b[]", ""):gmatch("%S+") do
    if word:sub(1, 2) == "--" then break end
    if word == "…" then several = true elseif not word:find("=", 1, true) then out[#out + 1] = word end
  end
  return out, several, (c.args or ""):match(" %[(%u+)%]$")
end

local function pairs_of(map, into)
  local out = into or {}
  for k, v in pairs(map or {}) do out[#out + 1] = ("%s=%s"):format(k, v) end
  table.sort(out)
  return table.concat(out, "\n")
end

-- What every type's credential has beside its own fields, where it is more than a line.
local function of_tls(out, record)
  local set = table.concat(record and record.sealed or {}, " "):find("c/client_key", 1, true)
  for _, x in ipairs { { "client_cert", "own certificate", "For mutual TLS: PEM, the certificate first, its issuers after it." }, { "client_key", "its key", set and "•••••••• (kept; paste another to replace it)" or "PEM.", true },
    { "ca", "further roots", "PEM that its hosts are trusted by, or sha256:HEX of their certificate or key." } } do
    out[#out + 1] = { name = "c." .. x[1], label = x[2], help = x[3], kind = "lines", rows = 3, secret = x[4], default = not x[4] and record and record[x[1]] or nil, off = "--clear=" .. x[1] }
  end
end

-- The inputs for a type's fields.
local function of_fields(pol, out, record)
  local set = {}
  for _, name in ipairs(record and require("cli.shape").secrets(record) or {}) do set[name:match("^[^.]+")] = true end
  for _, f in ipairs(require("policy").fields(pol)) do
    local secret = records.is_secret(f)
    local spec = { name = "f." .. f.name, label = f.label or f.name, help = f.help,
      required = f.required and not record and f.default == nil }
    if f.type == "map" then
      spec.kind, spec.rows, spec.help = "lines", 2, sentence(f.help) .. " One KEY=VALUE a line."
      spec.required = false
    elseif f.type == "pem" or f.type == "document" then
      spec.kind, spec.rows, spec.secret = "lines", 5, secret
    elseif secret then
      spec.kind, spec.hint = "secret", set[f.name] and "•••••••• (kept; type to replace it)" or ""
    elseif f.values then
      spec.kind, spec.values = "choice", f.values
    elseif f.type == "boolean" then
      spec.kind, spec.values, spec.titles = "choice", { "true", "false" }, { ["true"] = "yes", ["false"] = "no" }
    end
    if f.type == "map" then spec.each = { f.name .. ".", ("--clear=%s.%%s"):format(f.name) } end
    local kept = record and record.fields and record.fields[f.name]
    if kept ~= nil and not secret then
      spec.default = type(kept) ~= "table" and tostring(kept) or f.type == "map" and pairs_of(kept) or #kept > 0 and table.concat(kept, " ") or nil
      spec.off = "--clear=" .. f.name
    end
    if f.default ~= nil and type(f.default) ~= "table" and f.default ~= "" then
      local shown = f.type == "boolean" and (f.default and "yes" or "no") or ("`%s`"):format(f.default)
      spec.help = ("%s Default: %s"):format(sentence(spec.help), shown == "` `" and "a space" or shown):gsub("^ ", "")
    end
    out[#out + 1] = spec
  end
  if pol.connect then     -- tokens of a client that is connected elsewhere
    out[#out + 1] = { name = "t.refresh_token", label = "refresh token", kind = "secret",
      help = "To paste one that is there: it is tried at once. Without it you sign in to the account next." }
    out[#out + 1] = { name = "t.access_token", label = "access token", kind = "secret", help = "Alone it is used until it ends." }
  end
end

local function load_type(name)
  local pol = records.name(name or "") and require("policy_store").load(name)
  return pol or nil
end

-- The types that there are of that kind, and what each is called.
local function types_of(desk, kind)
  local values, titles = {}, {}
  for _, p in ipairs(commands.run({ "policy", "list" }, { home = desk.home, asked = desk.who }).value or {}) do
    if p.kind == kind then values[#values + 1], titles[p.name] = p.name, p.title and ("%s: %s"):format(p.name, p.title) end
  end
  return values, titles
end

-- Where the records are that commands of a family change.
local kept_as = { credential = { "credential", "" }, agent = { "agent", "a/" }, tenant = { "agent", "a/" }, bundle = { "bundle", "" },
  domain = { "bundle", "" }, user = { "user", "u/" } }
local function key_of(family, form)
  if family == "user" then return require("web.access").user_name(form.a1) or form.a1 end
  return family == "domain" and ("%s/%s"):format(form.a1, records.host(form.a2 or "", true) or "") or form.a1
end

-- What a form of a change is about, as it stands | nil
local function stood_of(c, form)
  local family = c.words:match("^(%S+) set$")
  local at = form.a1 and kept_as[family]
  local record = at and require("store").peek(at[1], at[2] .. key_of(family, form)) or nil
  if record and at[1] == "agent" then
    if (record.kind == "tenant") ~= (family == "tenant") then return nil end
    local through = require("doors").of(require("store").peek("agent", "d/doors"), record.name)
    record.uid, record.from = through.uid, through.from
  end
  return record
end

-- What a form would put something in the place of, that is made whole each time: as it stands | nil
local function replaced_of(c, form)
  if c.words == "role add" and form.a1 then return require("store").peek("user", "r/" .. form.a1) end
  local gateway = c.words == "gateway scope" and form.a1 and require("store").peek("gateway", form.a1)
  for _, s in ipairs(gateway and gateway.scopes or {}) do
    if s.name == form.a2 then return s end
  end
end

-- What of a record an option changes, where its name is another.
local kept_members = { host = "hosts", method = "methods", port = "ports", path = "paths", address = "addresses", ["seal-host"] = "seal_hosts", bundle = "bundles",
  tenant = "tenants", totp = "totp_wanted", scope = "scopes", tool = "tools", ["disable-variable"] = "variables_off", substitute = "rows" }

-- An input shows what stands: its default, and the word that takes it off once it is emptied. each: of lines that are each a word, what stands before one,
-- and the word for one that is gone.
local function kept_of(c, spec, stood, name)
  local family, kept = c.words:match("^%S+"), stood[kept_members[name] or name:gsub("-", "_")]
  if name == "env" then kept = stood.env and { stood.env, table.unpack(stood.env_also or {}) } end
  if name == "port" then kept = kept or { 443 } end
  if name == "substitute" then
    kept = {}
    for i, row in ipairs(stood.rows or {}) do kept[i] = require("rows").text(row) end
  elseif name == "tenant" then
    spec.each, kept = { "--tenant=", "--tenant=%s=" }, pairs_of(kept)
  elseif name == "disable-variable" then
    local off = {}
    for v in pairs(kept or {}) do off[#off + 1] = v end
    table.sort(off)
    spec.each, kept = { "--disable-variable=", "--enable-variable=%s" }, off
  elseif name == "ttl" then
    spec.help, kept = ("%s Now: %s."):format(sentence(spec.help), stood.expires_at and require("cli.report").time(stood.expires_at) or "never"), nil
  elseif spans[(name:gsub("-", "_"))] then
    kept = kept and records.span(kept)
  end
  local text = type(kept) == "table" and table.concat(kept, "\n") or kept == true and (spec.kind == "switch" and "on" or "yes") or kept and tostring(kept)
  spec.default = text and text ~= "" and text or nil
  spec.off = (name == "uid" or name == "from") and ("--%s=none"):format(name) or family == "user" and "--no-" .. name or name == "port" and family == "credential" and "--port=443"
    or (family == "agent" or family == "tenant" or name == "host" and family == "credential") and "" or "--clear=" .. name
end

-- Options that another input stands for, or that have nothing to do.
local function idle(c, name, stood)
  return name == "enable-variable" or name:find("^no%-") or name == "enable" and not stood.disabled or name == "clear" and c.words ~= "credential set"
end

-- What a command's form asks: a list of inputs, the type whose fields are among them.
local function specs_of(desk, c, form)
  local out, args, several, last = {}, arguments(c)
  for i, word in ipairs(args) do
    local more = several and i == #args
    local about = c.words:match("^(%S+)")
    local new = c.words:find(" add$") and (word == "NAME" or word == about:upper())
    local list = not new and names(desk, word == "NAME" and about:upper() or word) or nil
    out[#out + 1] = { name = "a" .. i, label = word:lower():gsub("_", " "), required = true, kind = more and "lines" or nil,
      help = more and "One a line." .. there(list) or nil, list = list }
  end
  if last then out[#out + 1] = { name = "a" .. #args + 1, label = last:lower(), help = c.words == "credential test" and "Where it may go; left out, the small read that its preset knows, or its first host" or "" } end
  local pol, record
  if c.words == "rule move" then
    local r = ask_rule(desk, form)
    out[2].help = r and ("It is asked at place %d now."):format(r.place)
  elseif c.words == "credential add" then
    local preset = form["o.preset"] and require("presets").get(form["o.preset"])
    pol = load_type(preset and preset.type or form["o.type"])
  elseif c.words == "credential set" then
    record = stood_of(c, form)
    pol = record and load_type(record.type)
  elseif c.words == "rule add" then
    pol = load_type(form["o.type"])
  elseif c.words == "rule set" then
    record = ask_rule(desk, form)
    pol = record and load_type(record.type)
  end
  local whole = replaced_of(c, form)
  local stood, set = record or whole or stood_of(c, form), c.words:find " set$" ~= nil
  if pol then of_fields(pol, out, record) end
  for _, o in ipairs(c.options or {}) do
    -- A preset is chosen among the apps, and has its type.
    local chosen = c.words == "credential add" and (o.name == "preset" and not form["o.preset"] or o.name == "type" and form["o.preset"])
    if not commands.hidden[o.name] and not chosen then
      local spec = { name = "o." .. o.name, label = (o.many or not one_of[o.name]) and called[o.name] or o.name, help = o.help }
      if o.name == "type" and (c.words == "credential add" or c.words == "rule add") then
        spec.kind, spec.required = "choice", form["o.preset"] == nil
        spec.values, spec.titles = types_of(desk, c.words == "rule add" and "rule" or "type")
      elseif not o.arg then
        spec.kind = "switch"
      elseif o.bare then        -- --tunnel or --tunnel=raw
        spec.kind, spec.values, spec.bare = "choice", { "yes", o.arg }, true
      elseif o.of then
        spec.kind, spec.values = "choice", o.of
      elseif o.many then
        spec.kind, spec.rows, spec.help = "lines", 2, sentence(o.help) .. " One a line." .. there(names(desk, o.arg))
      else
        spec.list = names(desk, o.arg)
      end
      if stood and o.name == "clear" then
        spec.help = ("It keeps %s. One name a line."):format(table.concat(require("cli.shape").secrets(stood), ", "))
      elseif stood and not o.act then
        kept_of(c, spec, stood, o.name)
        spec.whole = whole ~= nil
      end
      local ended = c.words == "gateway scope" and (form["o.remove"] ~= nil) ~= (o.name == "remove")      -- what is taken away has nothing more to say
      if not (ended or set and idle(c, o.name, stood or {})) then out[#out + 1] = spec end
    end
  end
  local takes, typed = (c.args or ""):match("(%u+)=VALUE"), c.words:match("^credential") or c.words:match("^rule")
  if takes and (not typed or pol and typed == "credential") then      -- all that a rule's type takes has an input
    local spec = { name = "more", label = takes == "NAME" and "variables" or "more fields", kind = "lines", rows = 2,
      help = ("One %s=VALUE a line%s"):format(takes, pol and ": mint, scrub, attach, keep, headers.NAME, … No secret stands here." or "."), each = { "", takes == "NAME" and "%s=" or "--clear=%s" } }
    if stood then
      local lines = {}
      for _, name in ipairs { "mint", "scrub", "attach", "tls" } do lines[#lines + 1] = pol and stood[name] and name .. "=" .. stood[name] or nil end
      lines[#lines + 1] = pol and stood.keep and "keep=" .. table.concat(stood.keep, ",") or nil
      for k, v in pairs(pol and stood.headers or {}) do lines[#lines + 1] = ("headers.%s=%s"):format(k, v) end
      local text = pairs_of(not pol and stood.variables, lines)
      spec.default = text ~= "" and text or nil
    end
    if pol then of_tls(out, stood) end
    out[#out + 1] = spec
  end
  return out, pol, record, stood
end

-- ---- what was typed ------------------------------------------------------------------------------

local function each_line(text)
  return (text or ""):gmatch("[^\r\n]+")
end

-- The lines of a text by what stands before their "=", or by themselves.
local function by_key(text)
  local out = {}
  for line in each_line(text) do out[line:match("^([^=]+)=") or line] = line end
  return out
end

-- The arguments of the command, and the secrets of the form by label | nil, message, which input. What stands there as it stood is no argument.
local function arguments_of(c, form, specs, pol)
  local args, typed = {}, {}
  for word in c.words:gmatch("%S+") do args[#args + 1] = word end
  local function put(text) args[#args + 1] = text end
  for _, s in ipairs(specs) do
    local value, name, f = form[s.name] or "", s.name:sub(3), nil
    if s.name:find("^f%.") then f = pol.by_name[name] end
    local secret = s.secret or s.kind == "secret" or f and records.is_secret(f)
    if s.kind ~= "lines" and s.kind ~= "secret" and value:find("%c") then return nil, "it is one line", s.name end
    if s.name:find("^a%d+$") then
      for line in each_line(value) do
        -- It would be an option.
        if line:sub(1, 1) == "-" then return nil, "it cannot begin with a dash", s.name end
        put(line)
      end
    elseif flat(value) == (s.whole and "" or flat(s.default or "")) then
      goto next
    elseif s.each then
      local before = by_key(s.default or "")
      for line in each_line(value) do
        local key, v = line:match("^([^=]+)=(.*)$")
        if not key and s.each[1]:sub(1, 2) ~= "--" then return nil, "a line is NAME=VALUE", s.name end
        if line:sub(1, 1) == "-" then return nil, "it cannot begin with a dash", s.name end
        local word = s.each[1] .. line
        if secret then typed[s.each[1] .. key], word = v, s.each[1] .. key .. "=-" end
        if before[key or line] ~= line then put(word) end
      end
      for key in pairs(by_key(value)) do before[key] = nil end
      local gone = {}
      for key in pairs(before) do gone[#gone + 1] = s.each[2]:format(key) end
      table.sort(gone)
      table.move(gone, 1, #gone, #args + 1, args)
    elseif flat(value) == "" then
      for _, o in ipairs(f and c.options or {}) do
        if o.name == name then return nil, "it cannot be taken off: --clear means the option of that name", s.name end
      end
      if s.off == "" then return nil, "it cannot be empty", s.name end
      put(s.off)
    elseif secret then
      typed[name] = value
      put(name .. "=-")
    elseif s.name:find("^o%.") then
      if s.kind == "switch" or s.bare and value == "yes" then
        put("--" .. name)
      elseif s.kind == "lines" then
        for line in each_line(value) do put(("--%s=%s"):format(name, line)) end
      else
        put(("--%s=%s"):format(name, value))
      end
    else
      put(("%s=%s"):format(name, value))
    end
    ::next::
  end
  return args, typed
end

-- A refusal of the command at the input that it names.
local function fault_of(err, specs)
  local message = err.message or "it was refused"
  if message == "nothing to change was named" then return { message = "Nothing in this form was changed." } end
  if err.hint and err.hint:find("=@FILE", 1, true) then err.hint = nil end        -- ways of the command line
  for _, s in ipairs(specs) do
    local option, field = s.name:match("^o%.(.+)$"), s.name:match("^f%.(.+)$")
    if option and message:find("--" .. option, 1, true) or field and message:find("^" .. field:gsub("%W", "%%%0") .. "[ :]") then
      return { at = s.name, message = message, hint = err.hint }
    end
  end
  return { message = message, hint = err.hint }
end

-- What the form of a change was made from: two people who change one thing at once do not overwrite each other unseen. A text | nil: nothing is
-- changed by this command that was there before; where the record lies, for the commit.
local function seen_of(desk, c, form)
  local family, store = c.words:match("^%S+"), require "store"
  local at, key = commands.replaces(c.words, form.a1 or "", form.a2)
  if c.words == "gateway scope" then at, key = "gateway", form.a1 end
  if at and key then
    local record = store.peek(at, key)
    return record and ("%s-%s"):format(record.id or "", record.version) or nil, { at, key, record and record.version or 0 }
  end
  local record = stood_of(c, form)
  if record then
    local through = record.uid or record.from
    return ("%s-%s%s"):format(record.id or "", record.version, through and "-" .. hashed { record.uid or {}, record.from or {} } or ""), { kept_as[family][1], kept_as[family][2] .. key_of(family, form), record.version }
  end
  if c.words ~= "rule set" or not form.a1 then return nil end
  local r = ask_rule(desk, form)
  if not r then return nil end
  -- It lies in its bundle's record, and is read again: what is seen is of that version of it, or of a later one.
  local holds = store.peek("bundle", r.bundle)
  r = ask_rule(desk, form) or r
  return hashed { fields = r.fields, hosts = r.hosts, methods = r.methods, paths = r.paths }, { "bundle", r.bundle, holds and holds.version or 0 }
end

-- ---- pages ---------------------------------------------------------------------------------------

local lists = { credential = "credentials", agent = "agents", bundle = "bundles", domain = "bundles", rule = "rules",
  policy = "policies", disconnect = "credentials",
  user = "door", tenant = "door", role = "door", gateway = "door", client = "door", key = "door", connection = "door",
    set = "settings", webhook = "messages", approval = "approvals", proposal = "approvals" }

local things = { credential = "credential", agent = "agent", bundle = "bundle", domain = "host", rule = "rule", policy = "policy",
  user = "person", tenant = "tenant",
  role = "role", gateway = "gateway", webhook = "webhook", client = "client", key = "key", connection = "connection", approval = "request",
    seal = "sealed texts" }
--- What the members of a family are called.
function M.thing(family) return things[family] or family end

M.verbs = { add = "Add", set = "Change", remove = "Remove", revoke = "Revoke", rotate = "New token for", enable = "Enable",
  disable = "Disable", test = "Test",
  attach = "Put credentials into", detach = "Take credentials out of", move = "Move", scope = "A scope for", allow = "Allow",
    deny = "Deny", use = "Use a version of", disconnect = "Disconnect",
  rollback = "Roll back" }

-- The button of a form, where it is not the title's verb; what ends something stands out.
local acts = { rotate = "Make a new token", attach = "Put them in", detach = "Take them out", scope = "Add the scope", use = "Use this version",
  remove = "Yes, remove it", revoke = "Yes, revoke it" }
local ends = { remove = true, revoke = true }

local function title_of(c, form, pol, changes)
  local first, verb = c.words:match("^(%S+) ?(.*)$")
  local preset = c.words == "credential add" and form["o.preset"] and require("presets").get(form["o.preset"])
  if preset then return "Connect " .. preset.title, preset end
  if c.words == "gateway scope" and (changes or form["o.remove"]) then
    return ("%s the scope %s of the gateway %s"):format(changes and not form["o.remove"] and "Change" or "Remove", page.clean(form.a2, 60) or "", page.clean(form.a1, 60) or "")
  end
  if c.words == "policy use" and form.a2 then return ("Use version %s of the policy %s"):format(page.clean(form.a2, 20) or "", page.clean(form.a1, 60) or "") end
  if changes then verb = "set" end
  local thing, name = things[first] or first, verb ~= "add" and page.clean(first == "domain" and form.a2 or form.a1, 60)
  if first == "disconnect" then return "Disconnect the account" .. (name and " of " .. name or "") end
  return ("%s %s%s%s%s"):format(M.verbs[verb] or verb:gsub("^%l", string.upper), first == "seal" and "" or name and "the " or thing:find "^[ae]" and "an " or "a ", thing, name and " " .. name or "",
    pol and verb == "add" and pol.title and ": " .. (page.clean(pol.title, 80) or "") or "")
end

-- What a form is for, where the command's own help speaks of the command line.
local kept_says = "What you leave as it is stays; what you empty is taken off. "
local abouts = {
  ["credential set"] = kept_says .. "Tokens of an account that are pasted are tried at once: where they do not work, nothing changes.",
  ["credential test"] = "One small read goes out with the credential, and the next page says what came back.",
  ["credential enable"] = "It goes along again from the next request.",
  ["credential remove"] = "Forgets the credential and its tokens at once. Nothing is revoked at the provider: disconnect an account first.",
  ["agent add"] = "An agent is whoever may send requests here. The next page shows its token, once; its own page makes the lines to paste.",
  ["agent set"] = kept_says,
  ["agent rotate"] = "The next page shows a new token, once. Every older one ends at once, those of environments too.",
  ["agent enable"] = "Its requests are let through again, with the tokens that it has.",
  ["agent disable"] = "Its requests are refused from the next one, inside open tunnels too. Its tokens and bundles stay. What was sealed for it opens no more, even when it is enabled. Revoke it where somebody else may have a token.",
  ["agent revoke"] = "Its tokens end at once, inside open tunnels too. An agent that is added by the same name begins anew.",
  ["bundle set"] = "Variables are for credentials that hold `${NAME}` in a plain field, a header or a host. They are plain text, no secrets. An agent's own value comes first.",
  ["bundle enable"] = "It gives its agents what it holds again, from the next request.",
  ["domain set"] = kept_says,
  ["domain enable"] = "It counts again, from the next request.",
  ["domain disable"] = "The host is shut from the next request, unless something else allows it.",
  ["rule add"] = "A rule is asked about each request that its bundle allowed, before a credential is attached, and can refuse it. It never allows anything. Rules are asked in their order, and the first refusal stands.",
  ["rule set"] = kept_says .. "Then a field's default counts.",
  ["tenant set"] = kept_says,
  ["user add"] = "The next page shows a link, once: it is good once and for 24 hours, and sets their password. Send it as you would a password.",
  ["user set"] = kept_says .. "acme=viewer sets their role in the tenant acme.",
  ["key add"] = "A key is good at the addresses of the gateways (Authorization: Bearer sk_…), for programs that cannot sign in. The next page shows it, once.",
  ["client add"] = "For programs that want an id and a secret typed in; others register by themselves. The next page shows both, the secret this once.",
  ["gateway add"] = "Publishes an MCP server behind our own sign-in. A request goes on as the tenant's: its bundles say which credential it gets. What a server says of its own tools grants nothing; which of them only read, you say.",
}

-- Whether somebody has to say where the credential may go.
local function needs_host(c, form, pol)
  if c.words ~= "credential add" then return false end
  local preset = form["o.preset"] and require("presets").get(form["o.preset"])
  return not (pol and pol.hosts) and (not preset or require("presets").gap(preset) ~= nil)
end

-- The command that the form carries out, with what is known of it.
local function usage(c, form, pol)
  local preset, by = form["o.preset"], c.words:match("^(%l+) add$")
  if pol and by then
    local args = { by, "add", (form.a1 or "") ~= "" and not form.a1:find("%c") and form.a1 or preset or "NAME", preset and "--preset" or "--type", preset or pol.name }
    if needs_host(c, form, pol) then args[6], args[7] = "--host", "HOST" end
    for _, f in ipairs(require("policy").fields(pol)) do
      if f.required and f.default == nil then args[#args + 1] = f.name .. (records.is_secret(f) and "=-" or "=…") end
    end
    return commands.line(args)
  end
  local names_, n = arguments(c), 0
  local text = (c.args or ""):gsub("%S+", function(word)
    if word ~= names_[n + 1] then return word end
    n = n + 1
    local known = form["a" .. n]
    return known and known ~= "" and not known:find("%c") and require("env").quote(known) or word
  end)
  return ("sallyport %s %s%s"):format(c.words, text, form["o.remove"] and " --remove" or "")
end

-- Where a member of a family is shown: the rest of the address | nil
local function shown_at(family, name)
  local at = ({ domain = "bundles", disconnect = "credentials", policy = "policies", approval = "", proposal = "" })[family] or family .. "s"
  return (name or "") ~= "" and (at == "policies" or require("web.desk_pages").listed(at)) and at .. "/" .. require("uri").percent(name) or nil
end

-- Why there is nothing that this form could be about, and the command that says what there is | nil: there is, or it says not yet which.
local function absent(desk, c, form)
  local family, verb = c.words:match("^(%S+) ?(.*)$")
  local of, name = family == "domain" and "bundle" or family == "disconnect" and "credential" or family, form.a1 or ""
  local function ask(...) return commands.run({ ... }, { home = desk.home, asked = desk.who }) end
  if family == "webhook" then
    local none = ask("webhook", "show").error
    return none and none.message, { "webhook", "show" }
  end
  if name == "" or name:find("[\r\n]") or verb == "add" and family ~= "domain" or not commands.find(of .. " list") then return nil end
  local listing = { of, "list" }
  if name:sub(1, 1) ~= "-" and commands.find(of .. " show") then
    local got = ask(of, "show", name)
    local why = got.error and got.error.message
    if why then return why:find("^there is no") and why, listing end       -- one that is damaged can be removed
    if family ~= "domain" or verb == "add" or (form.a2 or "") == "" then return nil end
    local host = records.host(form.a2, true) or form.a2
    for _, d in ipairs(got.value.domains) do
      if d.host == host then return nil end
    end
    return ("'%s' has no entry for %s"):format(name, page.clean(host, 100) or "it"), { "bundle", "show", name }
  end
  local list = ask(of, "list").value
  local user = of == "user" and require("web.access").user_name(name)
  for _, item in ipairs(type(list) == "table" and list or {}) do
    if item.name == name or item.id == name or user and item.name == user then return nil end
  end
  return ("there is no %s '%s'"):format(things[of] or of, page.clean(name, 60) or ""), listing
end

--- The form of a command. fault: { at = input | nil, message, hint } of the last try.
function M.show(desk, c, form, fault)
  local none, listing = absent(desk, c, form)
  if none then
    local to = lists[c.words:match("^%S+")] or ""
    return { status = 404, title = "Not there", body = html('<p class="warn" role="alert">{w}.</p><p><a class="button" href="{b}{to}">{n}</a></p>',
      { w = sentence(none):sub(1, -2), b = desk.base, to = to, n = to == "" and "Home" or "Go on" }), line = listing }
  end
  local specs, pol, _, stood = specs_of(desk, c, form)
  local first, rest = {}, {}
  local set = c.words:find " set$"      -- whose options are all there is
  local changes = stood and not set and (form.seen or not form.csrf) and c.words ~= "rule add" or nil
  local type_missing = (c.words == "credential add" or c.words == "rule add") and not pol
  local which = set and not stood       -- it says first what is to be changed
  local named = not which and (changes or c.words:find "^domain" or not c.words:find " add$") and commands.find((c.words:match "^domain" and "bundle" or c.words:match "^%S+") .. " list")
  if which then
    for i = #specs, 1, -1 do
      if not specs[i].name:find "^a" then table.remove(specs, i) end
    end
  end
  for _, s in ipairs(specs) do
    s.max = type_missing and s.kind ~= "choice" and s.kind ~= "switch" and IN_ADDRESS or nil
    local given = (form[s.name] or "") ~= ""
    local main = s.name:find("^[aft]") or s.required or given or s.name == "o.host" and needs_host(c, form, pol)
      or #specs < 8 or set and c.words ~= "credential set" or fault and fault.at == s.name
    -- What it is about says the title.
    local known = named and given and s.name:find "^a" and s.kind ~= "lines" and not (fault and fault.at == s.name) and (s.name == "a1" or set or changes or form["o.remove"] or c.words == "policy use" or c.words:find "^domain %l+able$" or c.words == "domain remove")
      or s.name == "o.remove" and given
    if known or given and not set and (s.name == "o.preset" or s.name == "o.type") then
      first[#first + 1] = html('<input type="hidden" name="{n}" value="{v}">', { n = s.name, v = form[s.name] })
    elseif main then
      first[#first + 1] = input(s, form, fault)
    else
      rest[#rest + 1] = input(s, form, fault)
    end
  end
  local at, seen = "do/" .. c.words:gsub(" ", "/"), seen_of(desk, c, form)
  local help = type(c.help) == "string" and c.help:match("^(.-)\n\n") or nil
  local title, preset = title_of(c, form, pol, changes)
  local verb = form["o.remove"] and "remove" or changes and "set" or c.words:match("%S+$")
  local made = preset and html('<p>A key for it is made here: {at}</p>', { at = preset.make:find("^https://[^%s]+$")
    and html('<a href="{u}" rel="noopener noreferrer" target="_blank">{u}</a>', { u = preset.make }) or preset.make })
  return { status = fault and 400 or 200, title = title, body = html([[
{warn}{about}<form method="{method}" action="{base}{at}">{csrf}{seen}{first}{rest}<p class="row">
<button class="{class}">{word}</button> <a class="button" href="{base}{back}">Back</a></p></form>
]], {
    warn = fault and html('<div class="warn" role="alert"><strong>{m}</strong>{h}</div>',
      { m = prose(fault.message), h = fault.hint and prose("\n" .. fault.hint) }),
    about = made or html("<p>{t}</p>", { t = prose(form["o.remove"] and "Its tools need tools:execute again, from their next call." or abouts[c.words] or help and help:gsub("\n", " ") or sentence(c.summary)) }), method = (type_missing or which) and "get" or "post",
    base = desk.base, at = at, csrf = not (type_missing or which) and desk.csrf(at), first = first,
    seen = seen and html('<input type="hidden" name="seen" value="{s}">', { s = seen }),
    rest = rest[1] and html("<details{open}><summary>More</summary>{rest}</details>",
      { rest = rest, open = set and html " open" }),
    class = ends[verb] and "end" or "go",
    word = (type_missing or which) and "Go on" or preset and "Connect" or changes and verb == "set" and "Change" or acts[verb] or M.verbs[verb] or "Do it",
    back = (changes or not c.words:find(" add$")) and shown_at(c.words:match("^%S+"), form.a1) or c.words:find("^domain") and shown_at("domain", form.a1) or lists[c.words:match("^%S+")] or "" }), line = usage(c, form, pol) }
end

--- How long ago, with the moment behind it.
function M.ago(iso)
  if type(iso) ~= "string" then return iso or "" end
  local y, m, d, hh, mm, ss = iso:match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)")
  local at = y and require("dates").seconds(y, m, d, hh, mm, ss)
  if not at then return iso end
  local s = require("time").wall() - at
  local ahead = s < 0
  s = math.abs(s)
  local text = s < 60 and ("%d s"):format(s) or s < 3600 and ("%d min"):format(s // 60) or s < 172800
    and ("%d h"):format(s // 3600) or ("%d days"):format(s // 86400)
  return html('<time datetime="{iso}" title="{iso}">{t}</time>', { iso = iso, t = ahead and "in " .. text or text .. " ago" })
end

-- A moment as a list of members shows it: how long ago, and exactly | nil: it is none.
function M.moment(text)
  if not text:find("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d[%d.]*Z$") then return nil end
  return html('{ago} <small>{t}</small>', { ago = M.ago(text), t = text })
end

--- The part of the bar that a family of commands is of.
function M.under(family) return lists[family] or "" end

M.sentence = sentence

--- A value in words: lists with commas, members as NAME: VALUE. What would show a text otherwise than it is, as \xNN.
function M.said(v)
  if type(v) == "boolean" then return v and "yes" or "no" end
  if type(v) ~= "table" then return v == nil and "" or (tostring(v):gsub("[^\n]+", page.visible)) end
  local out, keys = {}, {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  for _, k in ipairs(keys) do
    local text = M.said(v[k])
    if text ~= "" then out[#out + 1] = type(k) == "number" and text or ("%s: %s"):format(k, text) end
  end
  return table.concat(out, #v > 0 and type(v[1]) == "table" and "; " or ", ")
end

-- What members are called whose names say too little.
local member_words = { created = "made", created_at = "made", expires_at = "ends", used_at = "last used", ends_at = "ends", asked_at = "asked", saved_at = "kept",
  paths = "below these paths", addresses = "may resolve to", seal_hosts = "sealed texts open at", plain_http = "without TLS too", env = "placeholders in",
  placeholder = "placeholder's shape", rows = "put in a placeholder's place", mint = "calls that make secrets", scrub = "looked for in answers", ca = "roots",
  answer_timeout = "answers within", idle_timeout = "may be silent for", upstream_http = "HTTP version", split = "of its document", secrets = "secrets, which are not shown",
  from = "comes from", ttl = "kept for", demo = "of the first try", variables_off = "disabled variables", requests = "requests at once", uid = "users of this machine",
  totp = "authenticator app", approve = "may answer what agents ask", operator = "may use this page", domains = "hosts without a credential", read = "tools that only read", url = "URL",
  redirect_uris = "answers may go to", mcp = "MCP server", claude_code = "Claude Code", first_ms = "ms to the first byte", ms = "ms in all", up = "bytes sent", down = "bytes got",
  by = "who", request = "id", stripped = "taken off", client_id = "client's id", taken_off = "taken off", all = "every scope", id = "id", exceptions = "not asked about" }
-- What an answer holds, as a list of names and values; moments as they are.
function M.members(value)
  local rows, keys = {}, {}
  for k in pairs(value) do keys[#keys + 1] = k end
  local rank = { name = 1, time = 1, id = 2, type = 3, state = 4, account = 4, decision = 4, hosts = 5, bundles = 6,
    agent = 5, method = 6, scheme = 6.1, host = 6.2, port = 6.3, path = 6.4, status = 6.5, reason = 6.6 }
  table.sort(keys, function(a, b)
    local x, y = rank[a] or 9, rank[b] or 9
    if x ~= y then return x < y end
    return tostring(a) < tostring(b)
  end)
  for _, k in ipairs(keys) do
    local v = value[k]
    local shown = type(v) == "string" and M.moment(v) or spans[k] and type(v) == "number" and records.span(v) or M.said(v)
    if shown ~= "" then rows[#rows + 1] = html("<dt>{k}</dt><dd>{v}</dd>",
      { k = (member_words[k] or tostring(k):gsub("_", " ")):gsub("^%l", string.upper), v = shown }) end
  end
  return rows[1] and html("<dl>{rows}</dl>", { rows = rows })
end

--- What a command answered, kept to be shown once: the address. back: the page to go on to, where it is not that of the command's family.
function M.keep(desk, c, args, got, back)
  local n = 0
  for _ in pairs(desk.kept) do n = n + 1 end
  if n >= KEPT_MAX then desk.kept = {} end
  local id = require("web.access").id()
  desk.kept[id] = { words = c.words, line = commands.line(args), got = got, back = back }
  return "done/" .. id
end

-- A credential that somebody signs in for is of no use before that: the provider's page is one click away where an approval made it.
local function account_button(desk, kept, value)
  local list = {}
  for i, name in ipairs(value and value.accounts or {}) do
    list[i] = i == 1 and require("web.desk_pages").consent(desk, name)
      or html('<a class="button" href="{base}account/{n}">Sign in for {n}</a>', { base = desk.base, n = name })
  end
  if list[1] then return html('<div class="row">{l}</div>', { l = list }) end
  local pol = kept.words == "credential add" and value and load_type(value.type)
  local record = pol and pol.connect and require("store").peek("credential", value.name)
  if record and not require("troubles").of(record, require("time").wall()) then pol = nil end       -- its tokens were pasted
  if value and not (pol and pol.connect) and (kept.words == "credential add" or kept.words == "credential set") then
    -- One small read with it, whose answer the next page says in words.
    return html('<form class="row" method="post" action="{base}do/credential/test">{csrf}<input type="hidden" name="a1" value="{n}">'
      .. '<button class="go">Verify: one small read</button></form>', { base = desk.base, csrf = desk.csrf "do/credential/test", n = value.name })
  end
  return pol and pol.connect
    and html('<p class="row"><a class="button go" href="{base}account/{n}">Sign in to the account</a></p>',
    { base = desk.base, n = value.name })
end

-- What of an answer its words do not say: the members by name, of a command.
local said_beside = { ["client add"] = { "id" }, ["credential test"] = { "url", "set", "token_expires_at", "hint", "disabled" } }

function M.done(desk, id)
  local kept = desk.kept[id]
  desk.kept[id] = nil
  if not kept then return { status = 410, title = "Shown already",
    body = html("<p>What was done is shown once. The lists say how things stand now.</p>") } end
  local notes = table.concat(kept.got.notes, "\n"):gsub("^note: ", ""):gsub(":$", ".")       -- where a terminal prints the answer
  local value = type(kept.got.value) == "table" and #kept.got.value == 0 and kept.got.value or nil
  local once = value and (value.token or value.secret or value.link)
  if type(once) ~= "string" then once = nil end
  local family = kept.words:match("^%S+")
  local beside, at = {}, not kept.back and value and shown_at(family, family ~= "client" and value.name or value.id) or nil     -- a client's name is its own word
  for _, k in ipairs(value and said_beside[kept.words] or {}) do beside[k] = value[k] end
  return { title = "Done", line = kept.line, body = html([[
{once}{verdict}{record}{notes}{value}{account}<p class="row"><a class="button go" href="{base}{back}">Go on</a></p>]], {
    verdict = value and kept.words == "credential test" and value.verdict and html('<p class="{c}" role="status"><strong>{s}</strong> {v}</p>',
      { c = value.status and value.status < 400 and "note" or "warn", s = value.status or value.error or "", v = value.verdict }),
    record = value and kept.words == "credential test" and value.request
      and html('<p><a href="{base}record?id={i}">The record of that request</a></p>', { base = desk.base, i = value.request }),
    account = account_button(desk, kept, value), once = once
      and html('<div class="note" role="status"><strong>Shown this once:</strong> <code>{t}</code></div>', { t = once }),
    notes = notes ~= "" and html('<p class="note" role="status">{n}</p>', { n = prose(notes) }), value = M.members(beside),
    base = desk.base, back = kept.back or at or lists[family] or "" }) }, M.under(family)
end

-- What says where secrets go is changed on the command line: why not | nil
local function kept_there(args)
  local verb, name = args[1] == "policy" and args[2], args[3]
  if not name or verb ~= "use" and verb ~= "rollback" and verb ~= "remove" then return nil end
  local version = verb ~= "remove" and (math.tointeger(tonumber(args[4])) or not args[4] and require("cli.policy_versions").before(name))
  if bounds.is_rule(name, version and (require("policy_store").source(name, version) or "")) then return nil end
  return "it says where secrets go, so versions of it are put in force, and removed, on the command line: sallyport " .. table.concat(args, " ")
end

-- What has pages of its own, and no form: doctor --remove is the command line's.
local elsewhere = { ["rule counters"] = true, ["webhook set"] = true, set = true, env = true, log = true, doctor = true, status = true, ["policy put"] = true }

--- GET and POST do/FAMILY/VERB
function M.answer(desk, words, query, form)
  local c = commands.find(words)
  if not c or words:find " list$" or words:find " show$" or elsewhere[words] then return nil end
  if not form then return M.show(desk, c, query) end
  local specs, pol, record = specs_of(desk, c, form)
  local function changed()
    local out = M.show(desk, c, form, commands.replaces(words, "") and { message = "There is one of that name already, as it is now.", hint = "Sent again, this form puts what it says in its place.", changed = true }
      or { message = "Somebody changed this since you opened the form.", hint = "Look at it as it is now. Sent again, this form overwrites that.", changed = true })
    out.status = 409
    return out
  end
  local args, typed, at_input = arguments_of(c, form, specs, pol)
  if not args then return M.show(desk, c, form, { at = at_input, message = typed }) end
  local seen, expect = seen_of(desk, c, form)
  if seen ~= form.seen then return changed() end
  local why = words == "credential set" and record and bounds.leads(args, pol, record) and bounds.unled(record, typed)
    or kept_there(args)
  if why then return M.show(desk, c, form, { message = why }) end
  local got = commands.run(args, { home = desk.home, asked = desk.who, typed = typed, expect = expect })
  if got.changed then return changed() end
  if got.error or got.code ~= 0 and got.value == nil then
    return M.show(desk, c, form, fault_of(got.error or { message = table.concat(got.notes, " ") }, specs))
  end
  return { see = M.keep(desk, c, args, got) }
end

return M
