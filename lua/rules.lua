--- Traffic rules: policies of the kind "rule" that stand in a bundle's record. Once a request was decided (pipeline), the
-- bundle's rules that cover it are asked, in their order; the first that says something settles it.
--
-- rules.ready(list, policies, policy, freeze) -> the rules of a bundle, compiled. list: of the record: { name, type, fields,
--   hosts, methods, paths } each.
-- rules.covers(rule, question) -> bool. question: { method, host, readings = function() -> { path … } | nil }
-- rules.request(req, question, view) -> seen, shown, now. req: of a request, or a table with its members. shown: what a rule sees of it:
--   nothing of it can be changed. now.asked: the rule that is asked at the moment.
-- rules.ask(rule, call, shown, with) -> nil: go on | code, message, hint, options. approval_timeout: a person is to be asked, about
--   options.reason. with: { agent, bundle, credential, wall and offset (nil: as it is now), memos = { [rule's name] = table } | nil,
--   count = function(key, window, n) -> n | nil }
local variables, counters, time = require "variables", require "counters", require "time"
local M = {}

local REASON_MAX = 500      -- bytes of what a rule says to an agent
local KEY_MAX = 200         -- bytes of a counter's name

local function covers_host(hosts, host)
  for _, h in ipairs(hosts) do
    if h == "*" or variables.covers(h, host) then return true end
  end
  return false
end

-- Small letters are as good as capitals, as for Django and Werkzeug: rules see capitals.
local function covers_method(methods, method)
  method = method:upper()
  for _, m in ipairs(methods) do
    if m == method or m == "GET" and method == "HEAD" then return true end
  end
  return false
end

local folded = setmetatable({}, { __mode = "k" })    -- a list of paths -> the same in small letters

local function in_small_letters(paths)
  local out = folded[paths]
  if not out then
    out = {}
    for i, path in ipairs(paths) do out[i] = path:lower() end
    folded[paths] = out
  end
  return out
end

-- Where one reading of the path is covered, the rule is asked: it may only refuse. Express and ASP.NET route /GraphQL as /graphql,
-- Rails and Grape /graphql.json, with a slash behind it, too.
function M.covers_path(paths, readings)
  if not readings then return true end
  paths = in_small_letters(paths)
  for _, path in ipairs(readings) do
    path = path:lower()
    for _, p in ipairs(paths) do
      if path:sub(1, #p) == p and (#path == #p or p:sub(-1) == "/" or path:find("^/", #p + 1) or path:find("^%.[^/.]+/?$", #p + 1)) then return true end
    end
  end
  return false
end

local HOSTS_MAX = 200       -- of a bundle: those whose rules are kept

--- The rules of a bundle that could be asked at this host, for so many of them are others'.
function M.at(list, host)
  local known = list.at and list.at[host]
  if known then return known end
  known = {}
  for _, rule in ipairs(list) do
    if rule.enabled ~= false and (not rule.hosts or covers_host(rule.hosts, host)) then known[#known + 1] = rule end
  end
  if not list.at or list.hosts >= HOSTS_MAX then list.at, list.hosts = {}, 0 end
  list.at[host], list.hosts = known, list.hosts + 1
  return known
end

function M.covers_method(rule, method) return not rule.methods or covers_method(rule.methods, method) end

--- Is it asked about this request? any: if it had another method, too.
function M.covers(rule, question, any)
  if rule.enabled == false then return false end
  if rule.hosts and not covers_host(rule.hosts, question.host) then return false end
  if not any and not M.covers_method(rule, question.method) then return false end
  return not rule.paths or M.covers_path(rule.paths, question.readings())
end

--- rule.follows: its on_response is called. A rule that cannot be compiled, or whose fields no longer fit its type, refuses what it covers: `why` says so.
function M.ready(list, policies, policy, freeze)
  local out = {}
  for i, given in ipairs(list) do
    local rule = { name = given.name, type = given.type, hosts = given.hosts, methods = given.methods, paths = given.paths,
      enabled = given.enabled, created = given.created, exceptions = given.exceptions }
    local pol, why = policies.load(given.type)
    if pol and pol.kind ~= "rule" then pol, why = nil, ("%s is no rule"):format(given.type) end
    local view = pol and policy.view(pol, given.fields or {})
    if pol then
      local ok, field, message = policy.check_credential(pol, given.fields or {})
      if not ok then pol, why = nil, ("its field %s %s"):format(tostring(field), tostring(message)) end
    end
    rule.pol, rule.why, rule.fields = pol, why, view and freeze(view)
    rule.follows = pol and pol.on_response and (not pol.answer_when or view[pol.answer_when] ~= nil) or false
    out[i] = rule
  end
  return out
end

-- ---- what a rule sees ----------------------------------------------------------------------------

local function read_only() error("a rule cannot change the request", 2) end

local function shown(content)
  return setmetatable({}, { __index = content, __newindex = read_only, __metatable = false })
end

-- A body as the rule's function asks for it: decoded once.
local function readers(seen, now, view)
  local of, json, form
  local function kind()
    of = of or require("body").of(view.headers)
    return of
  end
  local function readable()
    local body = seen.body
    if body == nil then return nil, "there is no body" end
    if kind().why then return nil, kind().why end
    return body
  end
  function seen.json()
    if json == nil or json.of ~= now.asked or not seen.body then   -- each rule has its own: it may change it, or have no body
      local text, why = readable()
      local value
      if text then value, why = require("json").decode(text) end
      json = { value, value == nil and (why or "it is no JSON") or nil, of = now.asked }
    end
    return json[1], json[2]
  end
  function seen.form()
    if form == nil or form.of ~= now.asked or not seen.body then
      local text, why = readable()
      local pairs_of
      if text then
        if kind().kind ~= "form" then why = "it is no form" else pairs_of, why = require("form").parse(text) end
      end
      form = { pairs_of, pairs_of == nil and (why or "it is no form") or nil, of = now.asked }
    end
    return form[1], form[2]
  end
end

-- Members of the request that a rule sees as they are.
local plain = { method = true, scheme = true, host = true, port = true, path = true, length = true, websocket = true, has_body = true }

--- The request and its view as they are now: what is attached later on is not for a rule.
function M.still(req, view)
  local names, values = view.headers:names(), {}
  for _, name in ipairs(names) do
    values[name] = values[name] or {}
    table.insert(values[name], view.headers:get(name, #values[name] + 1))
  end
  local query = setmetatable({}, { __index = function(t, name)
    t[name] = { view.query:get(name) }
    return t[name]
  end })
  local now = { query = req.query }
  for name in pairs(plain) do now[name] = req[name] end
  return now, {
    headers = { get = function(_, name, n) return (values[name:lower()] or {})[n or 1] end, names = function() return table.move(names, 1, #names, 1, {}) end },
    query = { get = function(_, name) return query[name][1] end },
  }
end

function M.request(req, question, view)
  local now, member, get = {}, nil, nil
  if type(req) == "userdata" then
    member, get = req:seen()
  else
    function member(_, name)
      if plain[name] then return req[name] end
      if name == "query_text" then return req.query or "" end
    end
    function get(_, name, n) return view.headers:get(name, n) end
  end
  local seen = setmetatable({
    headers = shown { get = get, names = function() return view.headers:names() end },
    query = shown { get = function(_, name) return view.query:get(name) end },
    readings = function()
      local list = question.readings()
      return list and table.move(list, 1, #list, 1, {})
    end,
  }, { __index = member })
  local method = question.method or "GET"
  if method:find("%l") then seen.method = method:upper() end
  -- What a push asks for; nil: it is none; nil, why: nobody can read it. seen.pushed: of pktline.parse, or why not.
  function seen.push()
    local pushed = rawget(seen, "pushed")
    if type(pushed) == "string" then return nil, pushed end
    return pushed
  end
  -- The members that the rule declares: { kind =, values = { [path] = { value … } } } | nil, why. seen.found: the same, or why not.
  function seen.members()
    local found = rawget(seen, "found")
    if type(found) == "table" then return found end
    return nil, found or "there is no body"
  end
  readers(seen, now, view)
  return seen, shown(seen), now
end

--- The paths that a rule with a reader looks for | nil, what went wrong
function M.members(rule, call)
  local list = rule.members or rule.pol.members
  if type(list) == "function" then
    local ok, got = call(rule.type, list, rule.fields)
    local why = ok and require("policy").members_wrong(got)
    if not ok or why then return nil, ok and "members " .. why or tostring(got) end
    list = table.move(got, 1, #got, 1, {})
  end
  rule.members = list
  return list
end

--- What a rule is told of a body that a reader has read: seen.found. of: body.of; why: it cannot be read
function M.found(rule, of, reader, why)
  if not reader or not rule.pol.reads[reader.kind] or of.kind == "multipart" then why = why or M.unread(rule, of) end
  if why or not reader then return why end
  local values = {}         -- of this rule alone: it may change them
  for path, list in pairs(reader.values) do values[path] = table.move(list, 1, #list, 1, {}) end
  return { kind = reader.kind, values = values }
end

--- Why no reader of the rule's reads a body of this kind; nil: one does.
function M.unread(rule, of)
  if of.why then return of.why end
  -- the parts of mixed, related and batch are bodies of their own, without a form's names
  if of.kind == "multipart" and of.media ~= "multipart/form-data" then return "of multipart form-data alone is read" end
  if of.kind and rule.pol.reads[of.kind] then return nil end
  local kinds = {}
  for _, kind in ipairs { "json", "form", "multipart" } do
    if rule.pol.reads[kind] then kinds[#kinds + 1] = kind == "json" and "JSON" or kind == "form" and "a form" or "multipart" end
  end
  return ("its Content-Type does not say that it is %s"):format(table.concat(kinds, " or "))
end

-- ---- what a rule says ----------------------------------------------------------------------------

local answers = setmetatable({}, { __mode = "k" })  -- made by the functions below, and by nothing else

local function answer(what)
  local token = setmetatable({}, { __metatable = false, __newindex = read_only })
  answers[token] = what
  return token
end

local function text_of(reason, what)
  if type(reason) ~= "string" or reason == "" or #reason > REASON_MAX or not utf8.len(reason) or reason:find("%c") then
    error(("%s is a text of one line, at most %d bytes"):format(what, REASON_MAX), 3)
  end
  return reason
end

local parted, parted_n = {}, 0       -- of patterns that were compared with before
local PARTED_MAX, PARTED_BYTES = 500, 200

-- What stands around the "*" of a pattern: { first =, what is between…, last = }; last nil: it has none.
local function parts_of(pattern)
  local x = {}
  local first, rest = pattern:match("^([^*]*)(.*)$")
  if rest ~= "" then
    local middle, last = rest:match("^(.*)%*([^*]*)$")
    for piece in middle:gmatch("[^*]+") do x[#x + 1] = piece end
    x.first, x.last = first, last
  end
  if #pattern <= PARTED_BYTES then
    if parted_n >= PARTED_MAX then parted, parted_n = {}, 0 end
    parted[pattern], parted_n = x, parted_n + 1
  end
  return x
end

--- Does a name match a pattern in which '*' is any text? Each piece is taken where it first stands, so that a long name costs
-- no more than it has bytes (as mcp_fits of proxy.c says it of lists).
function M.matches(pattern, name)
  local x = parted[pattern] or parts_of(pattern)
  if not x.last then return pattern == name end
  local first, last, at = x.first, x.last, #x.first + 1
  if name:sub(1, #first) ~= first then return false end
  for _, piece in ipairs(x) do
    local _, to = name:find(piece, at, true)
    if not to then return false end
    at = to + 1
  end
  return #name - #last + 1 >= at and name:sub(#name - #last + 1) == last
end

-- The limit that was made last: a rule makes the same one for request after request, and nobody can change it.
local cap = {}

local function limit_of(n, window, key, how)
  local unit, kept = how and how.unit, how ~= nil and how.kept == true
  local what = cap.what
  if not what or what.limit ~= n or what.window ~= window or what.key ~= key or what.unit ~= unit or what.kept ~= kept then
    if math.type(n) ~= "integer" or n < 0 then error("limit(n, window): n is a whole number from 0", 3) end
    what = { limit = n, window = window, key = key, unit = unit ~= nil and text_of(unit, "a unit") or nil, kept = kept }
    cap = { what = what, answer = answer(what) }
  end
  return cap.answer
end

--- What rules call, beside what every policy has.
M.functions = {
  fits = function(patterns, text)
    if type(text) ~= "string" then return false end
    for _, p in ipairs(patterns) do
      if M.matches(p, text) then return true end
    end
    return false
  end,
  named = function(member, name) return type(name) == "string" and require("reading").named(member, name) end,
  deny = function(reason, hint)
    return answer { reason = text_of(reason, "a reason"), hint = hint ~= nil and text_of(hint, "a hint") or nil }
  end,
  ask = function(reason, key)
    return answer { ask = text_of(reason, "a reason"), key = key ~= nil and text_of(key, "what an answer covers") or nil }
  end,
  limit = function(n, window, key, how) return (limit_of(n, window, key, how)) end,
}

-- Counts for one rule, under a key of its own: a function(key, window, n, kept), which keeps the name that it made last.
local function counting(rule, with)
  local begins, last, name = with.bundle .. "/" .. rule.name .. "\n", nil, nil
  return function(key, window, n, kept)
    if key ~= last or last == nil then
      if type(key) ~= "string" or #key > KEY_MAX then error(("a counter's key is a text of at most %d bytes"):format(KEY_MAX), 2) end
      last, name = key, begins .. key
    end
    if not counters.ends(window, 0) then error('a window is whole seconds, at most 40 days, or "day" or "month"', 2) end
    if n ~= nil and math.type(n) ~= "integer" then error("what is counted is a whole number", 2) end
    return with.count(name, window, n or 1, with.agent or "", kept == true) or error("too many counters are in use", 2)
  end
end

-- What changes from request to request: the time, and what a rule's functions share for one.
local lazy = {
  wall = function(with)
    with.wall = with.wall or time.wall()
    return with.wall
  end,
  offset = function(with) return with.offset or time.offset(with.wall or time.wall()) end,
  memo = function(with, rule)
    with.memos = with.memos or {}
    with.memos[rule.name] = with.memos[rule.name] or {}
    return with.memos[rule.name]
  end,
}

-- What a rule's functions get beside the request or the answer, made once for a `with`. warn(key, text): a line of the log, once while
-- the server runs.
local function context(rule, with)
  local ctx = with[rule]
  if ctx then return ctx end
  local count = counting(rule, with)
  local fixed = setmetatable({
    rule = rule.fields, agent = with.agent, bundle = with.bundle, credential = with.credential, count = count,
    warn = function(key, text)
      text_of(text, "a warning")
      if with.warn and count("warned " .. key, "month") == 1 then with.warn(rule, text) end
    end,
  }, { __index = function(_, name)
    if lazy[name] and with.touched then with.touched() end
    return lazy[name] and lazy[name](with, rule)
  end })
  ctx = shown(fixed)
  with[rule] = ctx
  return ctx
end

--- What a rule that has `tools` lets an MCP server's lists show, as req:narrow wants it | nil, what went wrong
function M.rows(rule, call)
  if rule.rows then return rule.rows end
  local ok, got = call(rule.type, rule.pol.tools, rule.fields)
  if not ok then return nil, tostring(got) end
  local rows = {}
  local function add(sign, patterns)
    for _, p in ipairs(patterns or {}) do
      if type(p) ~= "string" or p:find("%z") then error("a tool's pattern is a text", 0) end
      rows[#rows + 1] = sign .. p .. "\0"
    end
  end
  local fine, why = pcall(function()
    if type(got) ~= "table" then error("tools returned no table", 0) end
    add("-", got.deny)
    add("+", got.allow)
    rows[#rows + 1] = (got.allow and got.allow[1] and "=-" or "=+") .. "\0"
  end)
  if not fine then return nil, why end
  rule.rows = table.concat(rows)
  return rule.rows
end

--- A rule's on_response, once the answer has ended (the policy has `answer`). with: ask's. nil | what went wrong
function M.answered(rule, call, res, with)
  local ok, got = call(rule.type, rule.pol.on_response, shown(res), context(rule, with))
  return not ok and tostring(got) or nil
end

local function said(rule, text) return ("rule %s: %s"):format(rule.name, text) end
local function advice(rule) return ("the operator sees it with: sallyport rule show %s"):format(rule.name) end

-- What deny, ask or limit says, as ask below answers it.
local function settled(rule, what, with)
  local hint = advice(rule)
  if what.ask then return "approval_timeout", said(rule, "a person is asked: " .. what.ask), hint, { reason = what.ask, key = what.key } end
  if what.reason then return "rule_denied", said(rule, what.reason), what.hint or hint end
  local fine, n = pcall(context(rule, with).count, what.key or with.agent or "", what.window, what.unit and 0 or 1, what.kept)
  if not fine then return "rule_failed", said(rule, "its script failed"), hint, { trouble = tostring(n) } end
  if n <= what.limit and not (what.unit and n == what.limit) then return nil end
  local window = type(what.window) == "string" and "a " .. what.window or require("records").span(what.window)
  return "too_many", said(rule, ("%d%s in %s is the limit"):format(what.limit, what.unit and " " .. what.unit or "", window)),
    "wait; " .. hint, { retry_after = counters.ends(what.window, lazy.wall(with)) - lazy.wall(with) }
end

local function failed(rule, ok, got, what)
  return "rule_failed", said(rule, "its script failed"), advice(rule), { trouble = not ok and tostring(got)
    or ("policies/%s.lua: %s or nothing"):format(rule.type, what:format(type(got))) }
end

function M.ask(rule, call, seen, with)
  if not rule.pol then return "rule_failed", said(rule, rule.why), advice(rule) end
  local ok, got, more = call(rule.type, rule.pol.on_request, seen, context(rule, with))
  if ok and got == nil and more == nil then return nil end
  local what = ok and type(got) == "table" and answers[got]
  if what then return settled(rule, what, with) end
  return failed(rule, ok, got, "on_request returned a %s, not deny(…), ask(…), limit(…)")
end

--- A policy's on_request was called: has the rule something against the request?
function M.refuses(rule, with, ok, got, more)
  if got == nil and more == nil and ok then return false end
  local what = ok and type(got) == "table" and answers[got]
  return not what or settled(rule, what, with) ~= nil
end

--- What on_request gets of each request that is asked about with this `with`
M.context = context

--- A function that asks these rules about requests that are shown one after the other: true: none of them says anything against it.
-- (What one says is asked of M.ask.) run: sandbox.run; readings() -> of the path. before(rule), told(rule): each that is asked, and once it was
-- (false: it has something against it); nil: nobody wants to know.
function M.asker(list, run, with, readings, before, told)
  local each = {}
  for i, rule in ipairs(list) do
    local pol, name, paths = rule.pol, rule.type, rule.paths
    local ask, ctx = pol and pol.on_request, pol and context(rule, with)
    local known, covered            -- readings and whether they are covered: many requests after one another have one path
    each[i] = function(seen)
      local list = paths and readings()
      if list and list ~= known then known, covered = list, M.covers_path(paths, list) end
      if list and not covered then return true end
      if not ask then return false end
      if before then before(rule) end
      local ok, got, more = run(name, ask, seen, ctx)
      if (got ~= nil or more ~= nil or not ok) and M.refuses(rule, with, ok, got, more) then return false end
      return not told or told(rule) ~= false
    end
  end
  return #each == 1 and each[1] or function(seen)
    for i = 1, #each do
      if not each[i](seen) then return false end
    end
    return true
  end
end

--- A rule's on_response about the head of an answer (the policy has no `answer`). head: { status, headers = { { name, value } … } }. As ask.
function M.head(rule, call, head, with)
  local headers = {}
  function headers:get(name, n)
    n, name = n or 1, name:lower()
    for _, h in ipairs(head.headers) do
      if h[1]:lower() == name then n = n - 1 end
      if n == 0 then return h[2] end
    end
  end
  function headers:names()
    local out = {}
    for i, h in ipairs(head.headers) do out[i] = h[1]:lower() end
    return out
  end
  local ok, got, more = call(rule.type, rule.pol.on_response, shown { status = head.status, headers = shown(headers) }, context(rule, with))
  if ok and got == nil and more == nil then return nil end
  local what = ok and type(got) == "table" and answers[got]
  if what and what.reason then return settled(rule, what, with) end
  return failed(rule, ok, got, "on_response returned a %s, not deny(…)")
end

return M
