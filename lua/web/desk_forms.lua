--- Forms of the operator's page: made from the table of commands and from the fields of types, and carried out by the command.
local bounds = require "web.bounds"
local commands = require "web.commands"
local page = require "web.page"
local records = require "records"
local html = page.sparse
local M = {}

local IN_ADDRESS = 1000 -- characters of an input that goes into the address, whose head ends at 64 KiB
local KEPT_MAX = 32     -- answers that wait to be shown; a person looks at each at once

-- ---- the inputs ----------------------------------------------------------------------------------

-- A help of the command line as a sentence of a page.
local function sentence(text)
  if (text or "") == "" then return "" end
  if not text:find("^%l+[:_=/.]%S") then text = text:gsub("^%l", string.upper) end      -- tools:read is a name
  return text:find("[.?…]$") and text or text .. "."
end

-- A text of ours in which `…` is a command or a value.
local function prose(text)
  local out = {}
  for plain, code in (text .. "``"):gmatch("([^`]*)`([^`]*)`") do
    out[#out + 1] = plain
    out[#out + 1] = code ~= "" and html("<code>{c}</code>", { c = code }) or nil
  end
  return out
end

-- What an input is called where its name says too little.
local called = { ttl = "ends after", uid = "user id", totp = "authenticator app", url = "URL" }
local function label_of(text)
  return ((called[text] or text):gsub("[_-]", " "):gsub("%f[%w]u[rR][lLiI]%f[%W]", string.upper):gsub("^%l", string.upper))
end

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
      { attrs = attrs, on = form[spec.name] and html " checked", label = label_of(spec.label), about = about,
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
  return html('<label for="{id}">{label}</label>{box}<small id="{about}">{help}{wrong}</small>',
    { id = id, label = label_of(spec.label), box = box, about = about,
    help = prose(sentence(spec.help)), wrong = wrong and html(' <span class="bad">{m}</span>', { m = fault.message }) })
end

local function names(desk, kind)
  local out = {}
  local words = { AGENT = "agent", BUNDLE = "bundle", CREDENTIAL = "credential", TENANT = "tenant", GATEWAY = "gateway",
    ROLE = "role" }
  if not words[kind] then return nil end
  local got = commands.run({ words[kind], "list" }, { home = desk.home, asked = desk.who })
  for i, item in ipairs(type(got.value) == "table" and got.value or {}) do out[i] = item.name end
  return out[1] and out or nil
end

-- The names of a command's arguments: "BUNDLE HOST [options]" -> { "BUNDLE", "HOST" }; the last may come again.
local function arguments(c)
  local out, several = {}, false
  for word in (c.args or ""):gsub("%b[]", ""):gmatch("%S+") do
    if word:sub(1, 2) == "--" then break end
    if word == "…" then several = true elseif not word:find("=", 1, true) then out[#out + 1] = word end
  end
  return out, several
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
      spec.kind, spec.values = "choice", { "true", "false" }
    end
    local kept = record and record.fields and record.fields[f.name]
    if kept ~= nil and not secret then
      spec.default = type(kept) ~= "table" and tostring(kept) or #kept > 0 and table.concat(kept, " ") or nil
    elseif f.default ~= nil and type(f.default) ~= "table" and f.default ~= "" then
      spec.help = ("%s Default: %s"):format(sentence(spec.help), tostring(f.default)):gsub("^ ", "")
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
local kept_as = { credential = { "credential", "" }, agent = { "agent", "a/" }, bundle = { "bundle", "" }, domain = { "bundle", "" }, user = { "user", "u/" } }
local function key_of(family, form) return family == "domain" and ("%s/%s"):format(form.a1, form.a2 or "") or form.a1 end

-- The record that a form of a change is about | nil
local function stood_of(c, form)
  local family = c.words:match("^(%S+) set$")
  local at = form.a1 and kept_as[family]
  return at and require("store").peek(at[1], at[2] .. key_of(family, form)) or nil
end

-- What of the record an option changes. A domain entry's form shows it as it stands: emptied there, it is taken off. Others say it.
local kept_members = { host = "hosts", method = "methods", port = "ports", path = "paths", address = "addresses", ["seal-host"] = "seal_hosts", bundle = "bundles",
  tls = "tls", tunnel = "tunnel" }
local function kept_of(c, spec, stood, name)
  local kept = stood and stood[kept_members[name]]
  if not kept then return end
  if c.words == "domain set" then
    spec.default = type(kept) == "table" and table.concat(kept, "\n") or kept == true and "yes" or kept
    spec.clears = true
  elseif kept[1] then
    spec.help = ("%s Now: %s"):format(sentence(spec.help), table.concat(kept, ", "))
  end
end

-- What a command's form asks: a list of inputs, the type whose fields are among them.
local function specs_of(desk, c, form)
  local out, args, several = {}, arguments(c)
  for i, word in ipairs(args) do
    local more = several and i == #args
    local about = c.words:match("^(%S+)")
    local new = c.words:find(" add$") and (word == "NAME" or word == about:upper())
    out[#out + 1] = { name = "a" .. i, label = word:lower():gsub("_", " "), required = true, kind = more and "lines" or nil,
      help = more and "One a line" or nil, list = not new and names(desk, word == "NAME" and about:upper() or word) or nil }
  end
  local pol, record
  if c.words == "credential add" then
    local preset = form["o.preset"] and require("presets").get(form["o.preset"])
    pol = load_type(preset and preset.type or form["o.type"])
  elseif c.words == "credential set" then
    record = stood_of(c, form)
    pol = record and load_type(record.type)
  elseif c.words == "rule add" then
    pol = load_type(form["o.type"])
  elseif c.words == "rule set" then
    local got = commands.run({ "rule", "show", form.a1 or "" }, { home = desk.home, asked = desk.who })
    record = type(got.value) == "table" and got.value or nil
    pol = record and load_type(record.type)
  end
  local stood = record or stood_of(c, form)
  if pol then of_fields(pol, out, record) end
  for _, o in ipairs(c.options or {}) do
    if not commands.hidden[o.name] then
      local spec = { name = "o." .. o.name, label = o.name:gsub("-", " "), help = o.help }
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
        spec.kind, spec.rows, spec.help = "lines", 2, sentence(o.help) .. " One a line."
      else
        spec.list = names(desk, o.arg)
      end
      kept_of(c, spec, stood, o.name)
      if c.words ~= "domain set" or o.name ~= "clear" then out[#out + 1] = spec end
    end
  end
  local takes, typed = (c.args or ""):match("(%u+)=VALUE"), c.words:match("^credential") or c.words:match("^rule")
  if takes and (not typed or pol and typed == "credential") then      -- all that a rule's type takes has an input
    out[#out + 1] = { name = "more", label = takes == "NAME" and "variables" or "more fields", kind = "lines", rows = 2,
      help = ("One %s=VALUE a line%s"):format(takes, pol and ": env, mint, scrub, attach, headers.NAME, … No secret stands here." or ".") }
  end
  return out, pol, record
end

-- ---- what was typed ------------------------------------------------------------------------------

local function each_line(text)
  return (text or ""):gmatch("[^\r\n]+")
end

-- The arguments of the command, and the secrets of the form by label | nil, message, which input
local function arguments_of(c, form, specs, pol)
  local args, typed = {}, {}
  for word in c.words:gmatch("%S+") do args[#args + 1] = word end
  local function put(text) args[#args + 1] = text end
  for _, s in ipairs(specs) do
    local value = form[s.name] or ""
    if s.kind ~= "lines" and s.kind ~= "secret" and value:find("%c") then return nil, "it is one line", s.name end
    if s.name:find("^a%d+$") then
      for line in each_line(value) do
        -- It would be an option.
        if line:sub(1, 1) == "-" then return nil, "it cannot begin with a dash", s.name end
        put(line)
      end
    elseif s.clears and value == "" then
      put("--clear=" .. s.name:sub(3))
    elseif s.name:find("^o%.") and value ~= "" then
      local name = s.name:sub(3)
      if s.kind == "switch" or s.bare and value == "yes" then
        put("--" .. name)
      elseif s.kind == "lines" then
        for line in each_line(value) do put(("--%s=%s"):format(name, line)) end
      else
        put(("--%s=%s"):format(name, value))
      end
    elseif s.name:find("^f%.") and value ~= "" then
      local name = s.name:sub(3)
      local f = pol.by_name[name]
      local secret = records.is_secret(f)
      if f.type == "map" then
        for line in each_line(value) do
          local key, v = line:match("^([^=]+)=(.*)$")
          if not key then return nil, "a line is KEY=VALUE", s.name end
          local label = name .. "." .. key
          if secret then typed[label] = v end
          put(secret and label .. "=-" or line:gsub("^", name .. "."))
        end
      elseif secret then
        typed[name] = value
        put(name .. "=-")
      elseif value ~= s.default then
        put(("%s=%s"):format(name, value))
      end
    elseif s.name:find("^t%.") and value ~= "" then
      local name = s.name:sub(3)
      typed[name] = value
      put(name .. "=-")
    elseif s.name == "more" then
      for line in each_line(value) do
        if line:sub(1, 1) == "-" or not line:find("=", 1, true) then return nil, "a line is NAME=VALUE", "more" end
        put(line)
      end
    end
  end
  return args, typed
end

-- A refusal of the command at the input that it names.
local function fault_of(err, specs)
  local message = err.message or "it was refused"
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
-- changed by this command that was there before.
local function seen_of(desk, c, form)
  local record = stood_of(c, form)
  if record then return ("%s-%s"):format(record.id or "", record.version) end
  if c.words ~= "rule set" or not form.a1 then return nil end
  local got = commands.run({ "rule", "show", form.a1 }, { home = desk.home, asked = desk.who })
  return type(got.value) == "table" and require("host").sha256_hex(require("json").encode { got.value.fields or {}, got.value.version or 0 }):sub(1, 16) or nil
end

-- ---- pages ---------------------------------------------------------------------------------------

local lists = { credential = "credentials", agent = "agents", bundle = "bundles", domain = "bundles", rule = "rules",
  policy = "policies",
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
    deny = "Deny", use = "Use a version of",
  rollback = "Roll back" }

-- The button of a form, where it is not the title's verb; what ends something stands out.
local acts = { rotate = "Make a new token", attach = "Put them in", detach = "Take them out", scope = "Add the scope", use = "Use this version",
  remove = "Yes, remove it", revoke = "Yes, revoke it" }
local ends = { remove = true, revoke = true }

local function title_of(c, form)
  local first, verb = c.words:match("^(%S+) ?(.*)$")
  local preset = c.words == "credential add" and form["o.preset"] and require("presets").get(form["o.preset"])
  if preset then return "Connect " .. preset.title, preset end
  local thing = things[first] or first
  return ("%s %s%s"):format(M.verbs[verb] or verb:gsub("^%l", string.upper), verb ~= "add" and "" or thing:find "^[ae]" and "an " or "a ", thing)
end

-- Whether somebody has to say where the credential may go.
local function needs_host(c, form, pol)
  if c.words ~= "credential add" then return false end
  local preset = form["o.preset"] and require("presets").get(form["o.preset"])
  return not (pol and pol.hosts) and (not preset or require("presets").gap(preset) ~= nil)
end

-- The command that the form carries out, with what is known of it.
local function usage(c, form, pol)
  if pol then
    local args = { "credential", "add", form.a1 or form["o.preset"], "--preset", form["o.preset"] }
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
  return ("sallyport %s %s"):format(c.words, text)
end

--- The form of a command. fault: { at = input | nil, message, hint } of the last try.
function M.show(desk, c, form, fault)
  local specs, pol = specs_of(desk, c, form)
  local first, rest = {}, {}
  local set = c.words:find(" set$") and c.words ~= "domain set"     -- whose options are all there is
  local type_missing = (c.words == "credential add" or c.words == "rule add") and not pol
  for _, s in ipairs(specs) do
    s.max = type_missing and s.kind ~= "choice" and s.kind ~= "switch" and IN_ADDRESS or nil
    local given = (form[s.name] or "") ~= ""
    local main = s.name:find("^[aft]") or s.required or given or s.name == "o.host" and needs_host(c, form, pol)
      or #specs < 8 or c.words == "domain set" or fault and fault.at == s.name
    if given and not set and (s.name == "o.preset" or s.name == "o.type") then
      first[#first + 1] = html('<input type="hidden" name="{n}" value="{v}">', { n = s.name, v = form[s.name] })
    elseif main and not (set and s.name:find("^o")) or set and s.name:find("^[aft]") then
      first[#first + 1] = input(s, form, fault)
    else
      rest[#rest + 1] = input(s, form, fault)
    end
  end
  local at, seen = "do/" .. c.words:gsub(" ", "/"), seen_of(desk, c, form)
  local help = type(c.help) == "string" and c.help:match("^(.-)\n\n") or nil
  local title, preset = title_of(c, form)
  local verb = c.words:match("%S+$")
  local made = preset and html('<p>A key for it is made here: {at}</p>', { at = preset.make:find("^https://[^%s]+$")
    and html('<a href="{u}" rel="noopener noreferrer" target="_blank">{u}</a>', { u = preset.make }) or preset.make })
  return { status = fault and 400 or 200, title = title, body = html([[
{warn}{about}<form method="{method}" action="{base}{at}">{csrf}{seen}{first}{rest}<p class="row">
<button class="{class}">{word}</button> <a class="button" href="{base}{back}">Back</a></p></form>
]], {
    warn = fault and html('<div class="warn" role="alert"><strong>{m}</strong>{h}</div>',
      { m = fault.message, h = fault.hint and "\n" .. fault.hint or "" }),
    about = made or html("<p>{t}</p>", { t = prose(help and help:gsub("\n", " ") or sentence(c.summary)) }), method = type_missing and "get" or "post",
    base = desk.base, at = at, csrf = not type_missing and desk.csrf(at), first = first,
    seen = seen and html('<input type="hidden" name="seen" value="{s}">', { s = seen }),
    rest = rest[1] and html("<details{open}><summary>More</summary>{rest}</details>",
      { rest = rest, open = set and html " open" }),
    class = ends[verb] and "end" or "go",
    word = type_missing and "Go on" or preset and "Connect" or acts[verb] or M.verbs[verb] or "Do it",
    back = lists[c.words:match("^%S+")] or "" }), line = usage(c, form, preset and pol) }
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

--- A value in words: lists with commas, members as NAME: VALUE. What would show a text otherwise than it is, as \xNN.
function M.said(v)
  if type(v) ~= "table" then return v == nil and "" or (tostring(v):gsub("[^\n]+", page.visible)) end
  local out, keys = {}, {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  for i, k in ipairs(keys) do
    local text = M.said(v[k])
    out[i] = type(k) == "number" and text or ("%s: %s"):format(k, text)
  end
  return table.concat(out, #v > 0 and type(v[1]) == "table" and "; " or ", ")
end

-- What an answer holds, as a list of names and values; moments as they are.
function M.members(value)
  local rows, keys = {}, {}
  for k in pairs(value) do keys[#keys + 1] = k end
  local rank = { name = 1, time = 1, id = 2, type = 3, state = 4, decision = 4, hosts = 5, bundles = 6 }
  table.sort(keys, function(a, b)
    local x, y = rank[a] or 9, rank[b] or 9
    if x ~= y then return x < y end
    return tostring(a) < tostring(b)
  end)
  for _, k in ipairs(keys) do
    local v = value[k]
    local shown = type(v) == "string" and M.moment(v) or M.said(v)
    if shown ~= "" then rows[#rows + 1] = html("<dt>{k}</dt><dd>{v}</dd>",
      { k = tostring(k):gsub("_", " "), v = shown }) end
  end
  return html("<dl>{rows}</dl>", { rows = rows })
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

function M.done(desk, id)
  local kept = desk.kept[id]
  desk.kept[id] = nil
  if not kept then return { status = 410, title = "Shown already",
    body = html("<p>What was done is shown once. The lists say how things stand now.</p>") } end
  local notes = table.concat(kept.got.notes, "\n"):gsub("^note: ", "")
  local value = type(kept.got.value) == "table" and #kept.got.value == 0 and kept.got.value or nil
  local once = value and (value.token or value.secret or value.link)
  if type(once) ~= "string" then once = nil end
  if once then value.token, value.secret, value.link = nil, nil, nil end
  return { title = "Done", line = kept.line, body = html([[
{once}{verdict}{record}{notes}{account}{value}<p class="row"><a class="button go" href="{base}{back}">Go on</a></p>]], {
    verdict = value and kept.words == "credential test" and value.verdict and html('<p class="{c}" role="status"><strong>{s}</strong> {v}</p>',
      { c = value.status and value.status < 400 and "note" or "warn", s = value.status or value.error or "", v = value.verdict }),
    record = value and kept.words == "credential test" and value.request
      and html('<p><a href="{base}record?id={i}">The record of that request</a></p>', { base = desk.base, i = value.request }),
    account = account_button(desk, kept, value), once = once
      and html('<div class="note" role="status"><strong>Shown this once:</strong> <code>{t}</code></div>', { t = once }),
    notes = notes ~= "" and html('<p class="note" role="status">{n}</p>', { n = notes }), value = value and not kept.words:find("^proposal") and M.members(value),
    base = desk.base, back = kept.back or lists[kept.words:match("^%S+")] or "" }) }
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
    local out = M.show(desk, c, form, { message = "Somebody changed this since you opened the form.",
      hint = "Look at it as it is now. Sent again, this form overwrites that." })
    out.status = 409
    return out
  end
  local args, typed, at_input = arguments_of(c, form, specs, pol)
  if not args then return M.show(desk, c, form, { at = at_input, message = typed }) end
  if seen_of(desk, c, form) ~= form.seen then return changed() end
  local at, version = kept_as[words:match("^(%S+) set$")], math.tointeger(tonumber((form.seen or ""):match("%-(%d+)$")))
  local expect = at and version and { at[1], at[2] .. key_of(words:match("^%S+"), form), version } or nil
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
