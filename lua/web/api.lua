--- The JSON API, /api/v1: what the page does, for programs; and /metrics beside it. One function: handle(request) -> response.
--   request  { home =, method =, path = "/api/v1/…", query = text | nil, header = f(lower-case name) -> text | nil, body = text | "",
--              from = address | nil, by = "owner" | nil: who was let in already, and may all; door = for the records, "api" }
--   response { status =, headers = { { name, value }… }, body = text }
-- Each row of web.api_table is carried out by its command, one at a time. Yields.
local bounds = require "web.bounds"
local commands = require "web.commands"
local json = require "json"
local rows = require "web.api_table"
local tokens = require "web.api_tokens"
local M = { BODY_MAX = 1 << 20, BASE = "/api/v1" }

local NEWEST, NEWEST_MAX = 100, 1000    -- records of the log in an answer
local LIST_MAX = 1000                   -- items of a list that comes
local METRICS_MS = 2000                 -- for the server's answer: this process waits
local take = require("web.turn").new()  -- of a change, from the look at its ETag to its commit

-- Where the record lies whose version an ETag is: database, and what its key begins with.
local places = { credential = { "credential", "" }, bundle = { "bundle", "" }, agent = { "agent", "a/" }, tenant = { "agent", "a/" },
  domain = { "bundle", "" }, user = { "user", "u/" }, role = { "user", "r/" }, gateway = { "gateway", "" }, connection = { "grant", "g/" }, set = { "meta", "set/" }, webhook = { "meta", "set/" } }

local parts = { webhook = { "webhook-format", "webhook-events" } }

-- Settings of the scope `policy`: where connections go, and whom they trust.
local roads = { ["upstream-ca"] = true, ["connect-to"] = true }

-- ---- answers -------------------------------------------------------------------------------------

local function answer(status, value, more)
  local headers = { { "Content-Type", "application/json" }, { "Cache-Control", "no-store" } }
  for _, h in ipairs(more or {}) do headers[#headers + 1] = h end
  return { status = status, headers = headers, body = value ~= nil and json.encode(value) .. "\n" or "" }
end

local function fault(status, code, message, hint, more)
  return answer(status, { error = code, message = message, hint = hint or "" }, more)
end

-- An end of the request, from however deep.
local function fail(...) error({ response = fault(...) }, 0) end

local function hash(value) return require("host").sha256_hex(type(value) == "string" and value or json.encode(value)):sub(1, 20) end

-- An item's tag: the version of its record, for If-Match, and a hash of all that is shown of it, for If-None-Match: who holds a bundle is shown with it,
-- and is no part of its record. A list has the hash alone.
local function etag(value, version) return ('"%s%s"'):format(version and version .. "." or "", hash(value)) end

-- Whether the field of If-Match or If-None-Match (RFC 9110 13.1) names this tag. strong: weak ones are none (8.8.3.2), and the version decides.
local function matches(field, tag, strong)
  if field:match("^%s*(.-)%s*$") == "*" then return true end
  for weak, one in field:gmatch('(W?/?)("[^"]*")') do
    if strong and weak == "" and one:match('^"[^".]+') == tag:match('^"[^".]+') or not strong and one == tag then return true end
  end
  return false
end

-- ---- who asks ------------------------------------------------------------------------------------

-- { by =, scopes = list | nil: all } | nil
local function asker(request)
  local shown = request.header "authorization"
  if not shown then return request.by and { by = request.by } or nil end
  local record = tokens.check(shown:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +([%w_-]+)$"), require("time").wall())
  return record and { by = "token " .. record.name, scopes = record.scopes } or nil
end

local function need(who, scope)
  if who.scopes and not tokens.allows(who.scopes, scope) then
    fail(403, "insufficient_scope", ("this token has no scope %s"):format(scope), "sallyport token add NAME --scope " .. scope,
      { { "WWW-Authenticate", ('Bearer error="insufficient_scope", scope="%s"'):format(scope) } })
  end
end

-- ---- what is asked -------------------------------------------------------------------------------

local function bad(message, hint) fail(400, "bad_request", message, hint) end

local function text_of(value, name)
  if math.type(value) == "integer" then value = ("%d"):format(value) end
  if type(value) ~= "string" then bad(("%s is a text"):format(name)) end
  if value:find("\0", 1, true) or not utf8.len(value) then bad(("%s has a NUL byte, or is no UTF-8"):format(name)) end
  return value
end

local function list_of(value, name)
  if type(value) ~= "table" or getmetatable(value) ~= "json.array" or #value > LIST_MAX then bad(("%s is a list"):format(name)) end
  local out = {}
  for i, item in ipairs(value) do out[i] = text_of(item, name) end
  return out
end

local function map_of(value, name)
  if type(value) ~= "table" or getmetatable(value) == "json.array" then bad(("%s is an object"):format(name)) end
  local keys = {}
  for k in pairs(value) do
    if k:find("[%c=]") or k == "" or k:sub(1, 1) == "-" or not utf8.len(k) then bad(("%s has a name that none may have"):format(name)) end
    keys[#keys + 1] = k
  end
  table.sort(keys)
  return keys
end

-- A plain field's text, as it would be typed.
local function plain_text(value, name)
  if type(value) == "boolean" then return tostring(value) end
  if type(value) == "table" and getmetatable(value) == "json.array" then return table.concat(list_of(value, name), " ") end
  if math.type(value) == "float" then return tostring(value) end
  return text_of(value, name)
end

-- The type of what is made or changed, whose fields say which are secrets; and its record.
local function type_of(row, values, given)
  local name, record = nil, nil
  local store, presets = require "store", require "presets"
  if row.words == "credential add" then
    local preset = type(given.preset) == "string" and presets.get(given.preset)
    name = preset and preset.type or given.type
  elseif row.words == "credential set" then
    record = store.peek("credential", values.name)
    name = record and record.type
  elseif row.words == "rule add" then
    name = given.type
  elseif row.words == "policy try" then
    name = values.name
  end
  name = type(name) == "string" and require("records").name(name)
  return name and require("policy_store").load(name) or nil, record
end

-- FIELD=VALUE arguments of `fields` and `secrets`, and what is typed for each FIELD=-.
local function put_fields(args, typed, given, pol)
  local function put(label, value, secret)
    if #value > M.BODY_MAX then bad(label .. " is too long") end
    if secret then
      typed[label], args[#args + 1] = value, label .. "=-"
    else
      args[#args + 1] = label .. "=" .. value
    end
  end
  local function field(name, value)
    local f = pol and pol.by_name[name:match("^[^.]*")]
    local secret = f and require("records").is_secret(f) or name == "client_key"
      or pol and pol.connect and (name == "refresh_token" or name == "access_token")      -- tokens that are pasted are no fields
    put(name, plain_text(value, name), secret)
  end
  for _, name in ipairs(given.fields ~= nil and map_of(given.fields, "fields") or {}) do
    local value = given.fields[name]
    if type(value) == "table" and getmetatable(value) ~= "json.array" then
      for _, key in ipairs(map_of(value, name)) do field(name .. "." .. key, value[key]) end
    else
      field(name, value)
    end
  end
  for _, name in ipairs(given.secrets ~= nil and map_of(given.secrets, "secrets") or {}) do
    put(name, text_of(given.secrets[name], name), true)
  end
end

-- Ends the request where a member came that is none.
local function only(given, members)
  local known = {}
  for _, m in ipairs(members) do known[m.name] = true end
  for name in pairs(given) do
    if not known[name] then
      local names = {}
      for i, m in ipairs(members) do names[i] = m.name end
      bad(("there is no member '%s'"):format(require("cli.report").clean(name):sub(1, 40)), names[1] and "it has " .. table.concat(names, ", "))
    end
  end
end

-- Arguments of the command for what came: args, typed, led (it says where a secret of the record goes), record.
local function arguments_of(row, values, given, members)
  only(given, members)
  local args, typed, behind = {}, {}, {}
  for word in row.words:gmatch("%S+") do args[#args + 1] = word end
  local function place(text, name)
    if text:sub(1, 1) == "-" or text == "" then bad(("%s cannot be empty, or begin with a dash"):format(name)) end
    args[#args + 1] = text
  end
  if row.named then
    args[#args + 1] = ("--%s=%s"):format(row.named, values[row.parts[1]])
  else
    for _, name in ipairs(row.parts) do place(values[name], name) end
  end
  for _, m in ipairs(members) do
    local value = given[m.name]
    if value == nil then
      if m.required then bad(("%s is missing"):format(m.name)) end
    elseif m.place or m.kind == "value" then
      local one = m.kind == "text" or m.kind == "value" and type(value) ~= "table"
      if m.kind == "value" and type(value) == "boolean" then value = tostring(value) end
      local list = one and { text_of(value, m.name) } or list_of(value, m.name)
      if not list[1] then bad(("%s is empty%s"):format(m.name, m.kind == "value" and ": DELETE gives the default again" or "")) end
      for _, text in ipairs(list) do place(text, m.name) end
    elseif m.option then
      local off = value == false
      if m.kind == "switch" then
        if type(value) ~= "boolean" and not (m.word and value == m.word) then bad(("%s is true or false%s"):format(m.name, m.word and ", or " .. m.word or "")) end
        if value then behind[#behind + 1] = value == true and "--" .. m.option or ("--%s=%s"):format(m.option, value) end
      else
        local list = m.kind == "list" and list_of(value, m.name) or { text_of(value, m.name) }
        off = not list[1]
        if off and not m.clears then bad(("%s is empty: leave it out"):format(m.name)) end
        for _, text in ipairs(list) do behind[#behind + 1] = ("--%s=%s"):format(m.option, text) end
      end
      if off and m.clears then behind[#behind + 1] = "--clear=" .. m.option end
    elseif m.kind == "map" then
      for _, name in ipairs(map_of(value, m.name)) do args[#args + 1] = ("%s=%s"):format(name, text_of(value[name], name)) end
    end
  end
  local pol, record = type_of(row, values, given)
  put_fields(args, typed, given, pol)
  table.move(behind, 1, #behind, #args + 1, args)
  for _, text in ipairs(row.more or {}) do args[#args + 1] = text end
  return args, typed, record ~= nil and bounds.leads(args, pol, record), record
end

-- What stands in the query, by the row's members.
local function from_query(row, query)
  local given = {}
  local pairs_ = require("form").parse(query or "")
  if not pairs_ then bad "the query is malformed" end
  for _, p in ipairs(pairs_) do
    local member
    for _, m in ipairs(row.query) do
      if m.name == p[1] then member = m end
    end
    if not member then bad(("there is no parameter '%s'"):format(require("cli.report").clean(p[1]):sub(1, 40))) end
    if member.kind == "list" then
      given[p[1]] = given[p[1]] or json.array {}
      table.insert(given[p[1]], p[2])
    elseif given[p[1]] ~= nil then
      bad(("%s stands twice"):format(p[1]))
    elseif member.kind == "switch" then
      if p[2] ~= "true" and p[2] ~= "false" then bad(("%s is true or false"):format(p[1])) end
      given[p[1]] = p[2] == "true"
    else
      given[p[1]] = p[2]
    end
  end
  return given
end

local function from_body(row, request)
  if (request.body or "") == "" then return {} end
  if not row.body then bad "this takes no body" end
  if not (request.header "content-type" or ""):lower():find("^application/json%s*;?") then
    fail(415, "bad_request", "a body is application/json")
  end
  local value = json.decode(request.body)
  if type(value) ~= "table" or getmetatable(value) == "json.array" then bad "the body is no JSON object" end
  for name, v in pairs(value) do
    if v == json.null then bad(("%s is null: leave it out"):format(require("cli.report").clean(name):sub(1, 40))) end
  end
  return value
end

-- ---- carrying out --------------------------------------------------------------------------------

-- An item as `show`, or the family's list, has it | nil
local function item_of(request, family, id)
  if id:sub(1, 1) == "-" then return nil end
  if family == "webhook" then
    local got = commands.run({ "webhook", "show" }, { home = request.home })
    return not got.error and got.value or nil
  end
  if family == "domain" then        -- BUNDLE/HOST
    local bundle, host = id:match("^([^/]+)/(.+)$")
    local got = commands.run({ "bundle", "show", bundle }, { home = request.home })
    for _, item in ipairs(not got.error and got.value.domains or {}) do
      if item.host == host then return item end
    end
    return nil
  end
  if family == "set" then
    local all = commands.run({ "set" }, { home = request.home }).value
    return type(all) == "table" and all[id] or nil
  end
  if commands.find(family .. " show") then
    local got = commands.run({ family, "show", id }, { home = request.home })
    return not got.error and got.value or nil
  end
  local list = commands.run({ family, "list" }, { home = request.home }).value
  for _, item in ipairs(type(list) == "table" and list or {}) do
    if (item.id or item.name) == id then return item end
  end
end

-- The version of an item, and where its record lies, so that a commit can check it.
local function version_of(request, family, id)
  local place = places[family]
  local record = place and require("store").peek(place[1], place[2] .. id)
  if record then
    local versions, at = { record.version }, { place[1], place[2] .. id, record.version }
    for _, part in ipairs(parts[family] or {}) do       -- what is shown as one thing lies in several records
      local r = require("store").peek(place[1], place[2] .. part)
      at.also = at.also or {}
      at.also[#at.also + 1] = { place[1], place[2] .. part, r and r.version or 0 }
      versions[#versions + 1] = r and r.version or 0
    end
    return hash(("%s %s %s"):format(family, id, table.concat(versions, " "))), at
  end
  if place and family ~= "set" then return nil end
  local item, at = item_of(request, family, id), nil
  local holds = family == "rule" and item and require("store").peek("bundle", item.bundle)
  if holds then     -- it lies in its bundle's record, and is read again: as that version has it, or a later one
    item, at = item_of(request, family, id), { "bundle", item.bundle, holds.version }
  end
  return item and hash(item) or nil, at
end

-- The ETag of an item as it is now | nil, and where its record lies
local function tag_of(request, family, id)
  local version, at = version_of(request, family, id)
  local item = version and item_of(request, family, id)
  return item and etag(item, version) or nil, at
end

local function setting_scope(name)
  if roads[name] then return "policy" end
  if commands.SETTINGS[name] then return "write" end
  local known = require("records").setting(name)
  fail(known and 403 or 404, known and "command_line" or "not_found",
    known and ("%s is set on the command line alone"):format(name) or "there is no such setting", known and "sallyport set " .. name)
end

-- Who may all on this box, or answers what agents ask, is made and changed with a scope of its own: a link alone is as good as their password.
-- -> where the person's record lies, so that the commit can check that it is still that one | nil
local function need_for_person(who, values, given)
  local name = values.name or given.user
  local key = "u/" .. (require("web.access").user_name(type(name) == "string" and name or "") or "")
  local user, code = require("store").peek("user", key)
  if given.operator or given.approve or code == "damaged" or user and (user.operator or user.approve) then need(who, "operator") end
  return user and { "user", key, user.version } or nil
end

-- What a command ended with, as a response.
local function failed(request, row, values, got, made)
  local err = got.error or { message = table.concat(got.notes, " ") }
  local message, hint = err.message or "it was refused", err.hint
  if hint and hint:find("=@FILE", 1, true) then hint = nil end        -- ways of the command line
  if got.busy then return fault(503, "injection_unavailable", message, hint, { { "Retry-After", "1" } }) end
  if got.changed then return fault(412, "changed_meanwhile", message, hint) end
  if message:find("^this is a fault in sallyport") then return fault(500, "internal", "this is a fault in sallyport", hint) end
  if row.absent then return fault(404, "not_found", message, hint) end
  if message:find("is asked for again where", 1, true) then return fault(403, "secret_needed", message, hint) end
  if got.code == 2 then return fault(400, "bad_request", message, hint) end
  if row.id and not item_of(request, row.family, values[row.id]) then return fault(404, "not_found", message, hint) end
  if row.makes and row.family and type(made) == "string" and item_of(request, row.family, made) then return fault(409, "exists", message, hint) end
  return fault(422, "refused", message, hint)
end

local function look(request, row, values)
  local given = from_query(row, request.query)
  local value, tag
  if row.pick then
    value = item_of(request, row.family, values[row.id])
    if not value then fail(404, "not_found", "there is no such item") end
  elseif row.family == "set" then
    value = item_of(request, "set", values.name)
    if not value then fail(404, "not_found", "there is no such setting") end
  else
    local newest = row.lines and tonumber(given.newest or NEWEST)
    if row.lines then
      if math.type(newest) ~= "integer" or newest < 1 or newest > NEWEST_MAX then bad(("newest is a number from 1 to %d"):format(NEWEST_MAX)) end
      given.newest = tostring(newest)
    end
    local args = arguments_of(row, values, given, row.query)
    local got = row.words == "doctor" and not args[2] and commands.doctor(request.home) or commands.run(args, { home = request.home, lines = row.lines })
    if got.error or got.value == nil then return failed(request, row, values, got) end
    value = got.value
    if row.lines then
      local out = json.array {}
      for i, line in ipairs(value) do out[i] = json.decode(line) end
      value = out
    end
    if row.member then value = value[row.member] or json.array {} end
  end
  tag = etag(value, row.id and version_of(request, row.family, values[row.id]) or nil)
  local seen = request.header "if-none-match"
  if seen and matches(seen, tag) then return answer(304, nil, { { "ETag", tag } }) end
  return answer(200, value, { { "ETag", tag } })
end

-- What no command does, for it waits for a person: the sign-in to an account, in two halves.
local own = {}

function own.consent(request, values, given, who)
  local scopes = given.scopes ~= nil and list_of(given.scopes, "scopes") or nil
  return require("web.consent").start(request.home, who.by, values.name,
    { redirect_uri = given.redirect_uri ~= nil and text_of(given.redirect_uri, "redirect_uri") or nil, scopes = scopes }, require("time").wall())
end

function own.finish(request, values, given, who)
  if given.answer == nil then bad "answer is missing" end
  local ok, why = require("web.consent").finish(who.by, values.name, text_of(given.answer, "answer"),
    { by = who.by, door = request.door or "api", command = "connect", client = request.from }, require("time").wall())
  if not ok then return nil, why end
  return item_of(request, "credential", values.name)
end

local function by_itself(request, row, values, given, who)
  only(given, row.body)
  if not require("store").peek("credential", values.name) then return fault(404, "not_found", "there is no such item") end
  local value, why = own[row.own](request, values, given, who)
  if not value then return fault(422, "refused", why) end
  local tag = tag_of(request, row.family, values.name)
  return answer(200, value, tag and { { "ETag", tag } })
end

local function change(request, row, values, who)
  local given = from_body(row, request)
  if (request.query or "") ~= "" then bad "this takes no query" end
  local turn <close> = take()
  if not turn then fail(503, "injection_unavailable", "another change is still being made", "try again", { { "Retry-After", "1" } }) end
  local match, expect = request.header "if-match", nil
  if match and match ~= "*" then
    local tag, at = nil, nil
    if row.id then tag, at = tag_of(request, row.family, values[row.id]) end
    if not tag or not matches(match, tag, true) then
      return fault(412, "changed_meanwhile", "it is not as it was when you looked", "get it again, and send what was made of that",
        tag and { { "ETag", tag } })
    end
    expect = at
  end
  local db, key = commands.replaces(row.words or "", values.bundle or tostring(given.name), type(given.host) == "string" and given.host or "")
  if row.makes and db and not match then
    if require("store").peek(db, key) then return fault(409, "exists", "there is one already", "If-Match: * puts this in its place") end
    expect = { db, key, 0 }
  end
  if row.own then return by_itself(request, row, values, given, who) end
  local person = rows.of_people(row) and need_for_person(who, values, given) or nil
  expect = expect or person
  local source
  if row.words == "policy put" or row.words == "policy test" or row.words == "policy try" then
    if not require("policy").name_ok(values.name) then bad "that is no policy's name" end       -- NAME.lua would be a file of this machine
    source, given.source = given.source, nil
    if row.words == "policy put" or source ~= nil then source = text_of(source, "source") end
  end
  local members = {}
  for _, m in ipairs(row.body or {}) do
    if m.name ~= "source" then members[#members + 1] = m end
  end
  local args, typed, led, record = arguments_of(row, values, given, members)
  if led then
    local why = bounds.unled(record, typed)
    if why then return fault(403, "secret_needed", why, "send its secrets in `fields` along with the change") end
  end
  local got = commands.run(args, { home = request.home, typed = typed, expect = expect, asked = { by = who.by, door = request.door or "api", client = request.from },
    source = source and { values.name, source } or nil })
  if got.error or got.code ~= 0 and got.value == nil then
    return failed(request, row, values, got, given.name or given.user)
  end
  local tag = row.id and row.method ~= "DELETE" and tag_of(request, row.family, values[row.id])
  local value = type(got.value) == "table" and got.value or {}
  if got.notes[1] and not row.named and getmetatable(value) ~= "json.array" and value.notes == nil then value.notes = json.array(got.notes) end
  return answer(row.makes and 201 or 200, value, tag and { { "ETag", tag } })
end

-- GET /metrics, as the server says it on its control socket: only its workers share what they count.
local function metrics(request, who)
  if request.method ~= "GET" and request.method ~= "HEAD" then return fault(405, "method_not_allowed", "it has GET", "", { { "Allow", "GET" } }) end
  need(who, "metrics")
  local text, why = require("cli.control_client").text({ home = request.home, host = require "host" }, "/metrics", METRICS_MS)
  if not text then return fault(503, "injection_unavailable", why, "sallyport status says what runs") end
  return { status = 200, headers = { { "Content-Type", "text/plain; version=0.0.4; charset=utf-8" }, { "Cache-Control", "no-store" } }, body = text }
end

local function handle(request)
  local path, method = request.path:sub(#M.BASE + 1), request.method == "HEAD" and "GET" or request.method
  if path == "/openapi.json" and method == "GET" then return answer(200, require("web.api_document").make()) end
  local who = asker(request)
  if not who then
    return fault(401, "token_needed", "this needs a token of the API", "sallyport token add NAME --scope read", { { "WWW-Authenticate", "Bearer" } })
  end
  if request.path == "/metrics" then return metrics(request, who) end
  local row, values = rows.find(method, path)
  if row and row.family == "user" and values.name then values.name = require("web.access").user_name(values.name) or values.name end
  if row and row.id == "webhook" then values.webhook = "webhook" end      -- there is one
  if row and row.id == "entry" then values.entry = ("%s/%s"):format(values.bundle, require("records").host(values.host, true) or values.host) end
  if not row then
    if not values[1] then return fault(404, "not_found", "there is no such resource", M.BASE .. "/openapi.json lists them") end
    table.sort(values)
    return fault(405, "method_not_allowed", ("it has %s"):format(table.concat(values, ", ")), "", { { "Allow", table.concat(values, ", ") } })
  end
  need(who, row.scope == "setting" and setting_scope(values.name) or row.scope)
  if method == "GET" then
    if (request.body or "") ~= "" then bad "this takes no body" end
    return look(request, row, values)
  end
  return change(request, row, values, who)
end

--- Whether a path is the API's.
function M.is(path) return path == "/metrics" or path == M.BASE or path:sub(1, #M.BASE + 1) == M.BASE .. "/" end

--- The response for a request. Yields.
function M.handle(request)
  local ok, out = pcall(handle, request)
  if not ok then
    if type(out) ~= "table" or not out.response then
      require("host").log(("ev=api err=\"%s\""):format((tostring(out):sub(1, 300):gsub('[%c"]', "'"))))
      out = { response = fault(500, "internal", "this is a fault in sallyport") }
    end
    out = out.response
  end
  if #out.body > require("web.body").ANSWER_MAX then out = fault(422, "refused", "the answer would be longer than 8 MiB", "ask for a part of it: an item, or fewer records") end
  return out
end

return M
