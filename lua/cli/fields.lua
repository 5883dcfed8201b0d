--- The fields of a credential: from what was typed to what the store keeps.
-- A secret goes from its file, standard input, variable or terminal into a handle; this code never sees it.
local records = require "records"
local report = require "cli.report"
local M = {}

local PLAIN_FILE_MAX = 1 << 20   -- a certificate or a document without secrets

local FETCH_MAX = 10000          -- ms for one secret from elsewhere

local function how(label)
  return ("%s=@FILE, %s=- (standard input), %s=env:NAME, or leave it out to be asked"):format(label, label, label)
end

local troubles = {
  control = "%s has a control byte in it (a line break, perhaps)",
  too_large = "%s is too large",
  absent = "%s: there is no file '%s'",
  unset = "%s: the variable %s is not set",
  no_tty = "%s is missing and there is no terminal to ask on",
  cancelled = "%s: cancelled",
}

-- What the page's form holds for a secret field: it ends and is refused as if it came from a file.
local function typed(ctx, label, opts)
  if type(ctx.typed[label]) ~= "string" then return ctx.typed[label] end     -- a secret already
  local text = ctx.typed[label]:gsub("\r\n", "\n"):gsub("\n$", "")
  local bad = text:gsub("\t", ""):find("[%z\1-\31\127]")
  if bad and not (opts.multiline and not text:find("[%z\1-\8\11-\31\127]")) then return nil, "control" end
  return require("secret.core").of(text), text == "" or nil
end

--- A FIELD=VALUE that was typed. Where a page holds the secrets (ctx.typed: by label), no file and no variable is read for it.
function M.assignment(ctx, text)
  local a, why = records.assignment(text)
  if a and ctx.typed then
    local held = a.text == "-" and ctx.typed[a.key and a.name .. "." .. a.key or a.name]
    a.from, a.value = held and "stdin" or "literal", a.text
  end
  return a, why
end

local function read(ctx, a, label, opts)
  if ctx.typed and ctx.typed[label] then return typed(ctx, label, opts) end
  if a.from == "file" or a.from == "env" then return ctx.host.read_secret(a.from, a.value, opts) end
  if a.from == "ask" then return ctx.host.tty_secret(report.clean(label) .. " (not shown): ", opts) end
  -- At a terminal "-" would wait in silence and show what is typed: each is asked for.
  if ctx.host.isatty(0) then return ctx.host.tty_secret(report.clean(label) .. " (not shown): ", opts) end
  if ctx.stdin_taken then report.usage("standard input can give one field only") end
  ctx.stdin_taken = true
  return ctx.host.read_secret("stdin", nil, opts)
end

--- One secret from where the assignment says; an empty one only where `may_be_empty`, and then it may be literal too.
function M.secret(ctx, a, label, opts, may_be_empty)
  if a.from == "literal" and a.value == "" and may_be_empty then return require("secret.core").of("") end
  if a.from == "literal" then
    report.usage(("%s is a secret and never comes from the command line (the shell keeps it)"):format(label),
      how(label))
  end
  local value, second = read(ctx, a, label, opts or {})
  if not value then
    report.fail((troubles[second] or "%s: " .. tostring(second):gsub("%%", "%%%%")):format(label, a.value), how(label))
  end
  if second and not may_be_empty then report.fail(label .. " is empty", how(label)) end
  if second and a.from == "ask" then ctx.note(("note: %s is empty, and kept so"):format(label)) end
  return value
end

--- Lets programs be run, of the folder that the running proxy has, or the settings name.
function M.helpers(ctx)
  if ctx.helpers_named then return end
  local running = require("cli.home").running(ctx)
  local dir = records.settings(running and running.flags).helpers
  ctx.helpers_named = true
  if dir then ctx.host.helpers(dir) end
end

--- Reads what an assignment says of a secret from elsewhere (elsewhere.lua) into `into.from[sealed]`, { text, value, code, detail }:
-- where it cannot be had now, `code` says why, and the value is a handle that stands for it. nil: it says nothing of the kind.
local function from_elsewhere(ctx, a, label, sealed, multiline, into)
  local elsewhere = require "elsewhere"
  if not into.elsewhere or a.from ~= "literal" or not elsewhere.is(a.value) then return nil end
  -- Whoever holds the page must not have this user's files read for a host of theirs.
  if ctx.page then report.usage(label .. ": exec: and file: are set on the command line", "on this page a secret is typed") end
  local ok, why = elsewhere.parse(a.value)
  if not ok then report.usage(("%s %s"):format(label, why)) end
  M.helpers(ctx)
  local value, code, detail = elsewhere.get(ctx.host, a.value, multiline, require("time").now() + FETCH_MAX)
  into.from[sealed] = { text = a.value, code = code, detail = detail, label = label, value = value or require("secret.core").of("elsewhere") }
  return into.from[sealed].value
end

local function plain(ctx, spec, a, label)
  if (spec.type == "pem" or spec.type == "document") and a.from == "file" then
    local text, why = ctx.host.read_file(a.value, PLAIN_FILE_MAX)
    if not text then report.fail(("%s: cannot read that file: %s"):format(label, why)) end
    return text
  end
  local value, why = records.field_value(spec, a.text)
  if value == nil then report.usage(why) end
  return value
end

local function find(specs, name)
  local names = {}
  for _, s in ipairs(specs) do
    if s.name == name then return s end
    names[#names + 1] = s.name
  end
  local near = records.nearest(name, names)
  local common_ones = { "headers.NAME", "env", "placeholder", "mint", "scrub", "keep", "attach", "client_cert", "client_key", "ca", "tls" }
  table.move(common_ones, 1, #common_ones, #names + 1, names)
  report.usage(("this type has no field '%s'"):format(report.clean(name):sub(1, 40)),
    near and ("did you mean %s?"):format(near) or ("it has %s"):format(table.concat(names, ", ")))
end

-- A plain text of any type's TLS, from a file or as it was typed.
local function text_of(ctx, a)
  if a.from ~= "file" then return a.text end
  local text, why = ctx.host.read_file(a.value, PLAIN_FILE_MAX)
  if not text then report.fail(("%s: cannot read that file: %s"):format(a.name, why)) end
  return text
end

local checks = {
  placeholder = records.shape, mint = records.mint, scrub = require("scrub").mode, tls = records.tls, keep = records.keep,
  attach = records.attach,
}

--- Members that every type has: headers.NAME, env, placeholder, mint, scrub, keep, attach, client_cert, client_key, ca, tls.
local function common(ctx, a, into)
  if a.name == "client_cert" or a.name == "ca" then
    into[a.name] = text_of(ctx, a)
    return
  end
  if a.name == "client_key" then
    into.sealed["c/client_key"] = from_elsewhere(ctx, a, a.name, "c/client_key", true, into) or M.secret(ctx, a, a.name, { multiline = true })
    return
  end
  if a.name == "env" then   -- several: env=A env=B, or with commas
    into.env = into.env or {}
    for _, text in ipairs(a.text:find(",", 1, true) and records.field_value({ name = "env", type = "list" }, a.text) or { a.text }) do
      local value, why = records.env_name(text)
      if not value then report.usage("env: " .. why) end
      into.env[#into.env + 1] = value
    end
    return
  end
  if checks[a.name] then
    local value, why = checks[a.name](a.text)
    if not value then report.usage(("%s: %s"):format(a.name, why)) end
    into[a.name] = value
    return
  end
  if not a.key then report.usage("a header is given as headers.NAME=VALUE") end
  local name, why = records.header_name(a.key)
  if not name then report.usage(why) end
  local label = "headers." .. name
  into.headers[name], into.sealed["h/" .. name] = nil, nil
  local away = from_elsewhere(ctx, a, label, "h/" .. name, false, into)
  if away or a.from ~= "literal" then
    into.sealed["h/" .. name] = away or M.secret(ctx, a, label)
  elseif not require("http").field_value_ok(a.value) or not utf8.len(a.value) then
    report.usage(label .. " has a byte that no header may hold (other letters are UTF-8)")
  else
    into.headers[name] = a.value
  end
end

local split_troubles = {
  malformed = "it is not JSON", not_object = "it is JSON, and no object", duplicate = "it has a member twice",
  absent = "it has no '%s'", not_string = "its '%s' is not a text",
}

--- A document becomes its members, secret ones as handles.
local function taken_apart(doc, spec)
  local members, code, member = require("cli.document").split(doc, spec.split)
  if not members then
    report.fail(("%s is not the document that it should be: %s"):format(spec.name,
      (split_troubles[code] or code):format(member)), spec.help)
  end
  return members
end

local function field(ctx, spec, a, into)
  local label = a.key and a.name .. "." .. a.key or a.name
  if (spec.type == "map") ~= (a.key ~= nil) then
    report.usage(spec.type == "map" and ("%s takes one member at a time: %s.KEY=VALUE"):format(a.name, a.name)
      or ("%s has no members: %s=VALUE"):format(a.name, a.name))
  end
  local value
  if records.is_secret(spec) then
    local multiline = spec.type == "pem" or spec.type == "document"
    local sealed = "f/" .. a.name .. (a.key and "/" .. a.key or "")
    value = from_elsewhere(ctx, a, label, sealed, multiline, into)
    local from = value and into.from[sealed]
    value = value or M.secret(ctx, a, label, { multiline = multiline }, spec.empty or not spec.required)
    if spec.split and not (from and from.code) then value = taken_apart(value, spec) end
    if from then from.value = value end
  else
    value = plain(ctx, spec, a, label)
  end
  local before = into.values[a.name]
  if spec.type == "map" then
    into.values[a.name] = before or {}
    into.values[a.name][a.key] = value
  elseif spec.type == "list" and before then
    table.move(value, 1, #value, #before + 1, before)
  else
    into.values[a.name] = value
  end
end

local common_names = {
  headers = true, env = true, placeholder = true, mint = true, client_cert = true, client_key = true, ca = true,
  tls = true, scrub = true, keep = true, attach = true,
}

--- Reads assignments into
-- { values = by field, headers = plain ones, sealed = secret ones as "h/NAME" and "c/client_key", env, placeholder,
--   mint, scrub, keep, attach, client_cert, ca, tls, from = secrets from elsewhere by sealed name, ttl }.
-- elsewhere: secrets may be exec:NAME and file:PATH.
function M.read(ctx, specs, texts, elsewhere)
  local into = { values = {}, headers = {}, sealed = {}, from = {}, elsewhere = elsewhere }
  local own_ttl = false
  for _, spec in ipairs(specs) do own_ttl = own_ttl or spec.name == "ttl" end
  for _, text in ipairs(texts) do
    local a, why = M.assignment(ctx, text)
    if not a then report.usage(why, "an option begins with two dashes; a field is FIELD=VALUE") end
    if a.name == "ttl" and elsewhere and not own_ttl then
      into.ttl, why = records.duration(a.text)
      into.new_ttl = true
      if not into.ttl then report.usage("ttl: " .. why) end
    elseif common_names[a.name] then
      common(ctx, a, into)
    else
      field(ctx, find(specs, a.name), a, into)
    end
  end
  return into
end

--- Values as the store keeps them: plain fields, documents' plain members, and sealed secrets by name.
function M.parts(specs, values)
  local is = require("secret").is
  local fields, split, sealed = {}, {}, {}
  for _, spec in ipairs(specs) do
    local name, value = spec.name, values[spec.name]
    if is(value) then
      sealed["f/" .. name] = value
    elseif type(value) == "table" and records.is_secret(spec) then
      for member, v in pairs(value) do
        if is(v) then
          sealed["f/" .. name .. "/" .. member] = v
        else
          split[name] = split[name] or {}
          split[name][member] = v
        end
      end
    else
      fields[name] = value
    end
  end
  return fields, next(split) and split or nil, sealed
end

--- What the record keeps of secrets from elsewhere: their texts by sealed name | nil; and what must not be kept of them goes
-- out of `secrets` and `split`. Those whose field has another value by now, or none, are no longer there.
function M.sources(into, split, secrets)
  local out = {}
  for sealed, e in pairs(into.from) do
    local name, key = sealed:match("^f/([^/]+)/?(.*)$")
    local now
    if name then now = into.values[name] else now = into.sealed[sealed] end
    if name and key ~= "" then now = type(now) == "table" and now[key] or nil end
    if rawequal(now, e.value) then
      out[sealed], secrets[sealed] = e.text, nil
      if name and key == "" and type(now) == "table" then
        split[name] = nil
        for other in pairs(secrets) do
          if other:sub(1, #sealed + 1) == sealed .. "/" then secrets[other] = nil end
        end
      end
    end
  end
  return next(out) and out or nil
end

--- What is kept, in the shape of `read`: from a record with its secrets. elsewhere: handles stand for secrets from elsewhere.
function M.kept(record, elsewhere)
  local into = { values = {}, headers = {}, sealed = {}, from = {}, ttl = elsewhere and record.ttl or nil }
  for name, value in pairs(record.fields or {}) do into.values[name] = value end
  for name, value in pairs(record.headers or {}) do into.headers[name] = value end
  local function member(name, key, value)
    if type(into.values[name]) ~= "table" then into.values[name] = {} end
    into.values[name][key] = value
  end
  for name, members in pairs(record.split or {}) do
    for key, value in pairs(members) do member(name, key, value) end
  end
  local all = {}
  for sealed, handle in pairs(record.secrets or {}) do all[sealed] = handle end
  for sealed, text in pairs(elsewhere and record.from or {}) do
    all[sealed] = require("secret.core").of("elsewhere")
    into.from[sealed] = { text = text, value = all[sealed], code = "kept" }
  end
  for sealed, handle in pairs(all) do
    local field = sealed:match("^f/(.+)$")
    local name, key = (field or ""):match("^([^/]+)/(.+)$")
    if name then
      member(name, key, handle)
    elseif field then
      into.values[field] = handle
    else
      into.sealed[sealed] = handle
    end
  end
  return into
end

-- Fields of one group are set together: with one of them typed, what is kept of the others belongs to the old one.
local function forget_groups(kept, typed, specs)
  local anew = {}
  for _, spec in ipairs(specs) do
    if spec.group and typed.values[spec.name] ~= nil then anew[spec.group] = true end
  end
  for _, spec in ipairs(specs) do
    if anew[spec.group] then kept.values[spec.name] = nil end
  end
end

--- Lays what was typed over what is kept: a map by its members, everything else whole.
function M.over(kept, typed, specs)
  forget_groups(kept, typed, specs)
  for _, spec in ipairs(specs) do
    local new = typed.values[spec.name]
    if spec.type == "map" and new then
      local all = kept.values[spec.name] or {}
      for k, v in pairs(new) do all[k] = v end
      kept.values[spec.name] = all
    elseif new ~= nil then
      kept.values[spec.name] = new
    end
  end
  for sealed, e in pairs(typed.from) do kept.from[sealed] = e end
  kept.ttl, kept.new_ttl = typed.ttl or kept.ttl, typed.new_ttl
  for name, value in pairs(typed.headers) do kept.headers[name], kept.sealed["h/" .. name] = value, nil end
  for sealed, value in pairs(typed.sealed) do
    local header = sealed:match("^h/(.+)$")
    if header then kept.headers[header] = nil end
    kept.sealed[sealed] = value
  end
  return kept
end

--- Asks on the terminal for each secret that was not given and is required, or that a preset asks for: `said` is what
-- it says of it.
function M.ask(ctx, specs, into, said)
  for _, spec in ipairs(specs) do
    if (spec.required or said and said[spec.name]) and records.is_secret(spec) and into.values[spec.name] == nil then
      if spec.type == "pem" or spec.type == "document" or spec.type == "map" or not ctx.host.isatty(0) then
        local what = said and said[spec.name] and ": " .. said[spec.name] or ""
        report.fail(("%s is missing%s"):format(spec.name, what), how(spec.name))
      end
      into.values[spec.name] = M.secret(ctx, { from = "ask" }, spec.name, {}, spec.empty)
    end
  end
end

return M
