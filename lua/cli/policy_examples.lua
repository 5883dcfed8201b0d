--- A policy's examples: what they are made of, and what each must come to. `policy put`, `edit` and `test` run them.
local policy = require "policy"
local presets = require "presets"
local paths, sandbox = require "paths", require "sandbox"
local M = {}

local EXAMPLES_CPU = 10         -- seconds of processor time for all of them

local request_keys = { method = "string", url = "string", headers = "table", body = "string" }
local applied_keys = { headers = "table", query = "table", url = "string", path = "string", body = "string" }
local want_keys = { error = "string boolean", state = "table", sent = "table", sealed = "table boolean string" }
for k, v in pairs(applied_keys) do want_keys[k] = v end
local sent_keys = { method = "string", url = "string", headers = "table", query = "table", path = "string", body = "string" }
M.keys = { req = request_keys, want = want_keys, sent = sent_keys }
local detail_keys = { status = true, retry_after = true }
local question_keys = { method = "string", path = "string", port = "integer", tls = "boolean", presents = "table" }
local match_want_keys = { id = "string integer", code = "string" }

-- A secret field's plain example becomes a handle, as in life; so does each text of the state.
local function example_values(pol, given)
  local core, values, state = require "secret.core", {}, nil
  local secret = { of = function(text) return core.as_field(core.of(text)) end }
  for name, v in pairs(given or {}) do
    local f = pol.by_name[name]
    if name == "grant" and type(v) == "table" and pol.connect then
      values.grant = v
    elseif name == "state" and type(v) == "table" then
      state = {}
      for k, item in pairs(v) do state[k] = type(item) == "string" and secret.of(item) or item end
    elseif not f then
      return nil, ("cred.%s is no field%s"):format(tostring(name), policy.meant(name, pol.by_name))
    elseif type(v) == "table" then
      values[name] = {}
      for k, item in pairs(v) do
        local sealed = f.secret or f.split and f.split[k] and f.split[k].secret
        values[name][k] = sealed and type(item) == "string" and secret.of(item) or item
      end
    else
      values[name] = f.secret and type(v) == "string" and secret.of(v) or v
    end
  end
  for name, v in pairs(values) do
    local ok, why = name == "grant", nil
    if not ok then ok, why = policy.value(pol.by_name[name], v) end
    if not ok then return nil, ("cred.%s %s"):format(name, why) end
  end
  return values, nil, state
end

M.values = example_values

local function quoted(v) return v == nil and "absent" or v == false and "absent" or ("%q"):format(v) end

-- nil where both say the same; else what differs, with both values.
local function differs(what, got, want)
  if want == false then want = nil end
  if got == want then return nil end
  return ("%s is %s, the example wants %s"):format(what, quoted(got), quoted(want))
end

-- A credential as refresh sees it, or with `applies` as apply and the rest do, but for this: a name that the type does not
-- have is an error, not nil.
local function strict(pol, values, state, applies)
  local given = pol.refresh and {} or nil
  for name, v in pairs(pol.refresh and state or {}) do
    if not (applies and name == "refresh_token") then given[name] = v end
  end
  local cred = policy.view(pol, values, given or state)
  cred.grant = not applies and values.grant or nil
  local function known(name)
    if type(name) == "string" and not pol.by_name[name] and not policy.common_names[name] then
      error(("the type has no field '%s'%s"):format(name, policy.meant(name, pol.by_name)), 3)
    end
  end
  if not applies then return setmetatable(cred, { __index = function(_, name) known(name) end }) end
  local inner, names = require("config").freeze(cred), {}
  for name in pairs(given or {}) do names[#names + 1] = name end
  local kept = inner.state and setmetatable({}, {
    __index = function(_, name)
      local near = inner.state[name] == nil and type(name) == "string" and require("records").nearest(name, names)
      if near then error(("the state has no '%s': did you mean %s?"):format(name, near), 2) end
      return inner.state[name]
    end,
    __newindex = function() error("a credential's fields cannot be changed", 2) end,
    __metatable = false, __pairs = function() return pairs(inner.state) end,
  })
  return setmetatable({}, {
    __index = function(_, name)
      local v = inner[name]
      if v == nil then known(name) end
      return name == "state" and kept or v
    end,
    __newindex = function() error("a credential's fields cannot be changed", 2) end,
    __metatable = false, __pairs = function() return pairs(inner) end,
  })
end
M.strict = strict

local function compare(out, want)
  local http, headers, why = require "http", {}, nil
  for name, v in pairs(out.headers) do headers[name:lower()] = v end
  for name, v in pairs(want.headers or {}) do why = why or differs("header " .. name, headers[name:lower()], v) end
  local url = http.parse_url(out.url)
  local query = {}
  for _, pair in ipairs(url and url.query and require("uri").parse_query(url.query) or {}) do
    query[pair[1]] = query[pair[1]] or pair[2]
  end
  for name, v in pairs(want.query or {}) do why = why or differs("query " .. name, query[name], v) end
  why = why or want.url and differs("the URL", out.url, want.url)
  why = why or want.path and differs("the path", url and url.path, want.path)
  return why or want.body and differs("the body", out.body, want.body)
end

--- The request of r = { method, url, headers, body } as `apply` meets it: with its body where the type wants to read it.
-- nil, code, message.
function M.request(pol, r, cred)
  local given = { method = r.method or "GET", url = r.url or "https://api.example.com/", headers = r.headers or {}, body = r.body }
  local req = require("example").request(given)
  local wants, code, message = policy.body(pol, req:view(), cred)
  if wants == nil then return nil, code, message end
  if wants and wants.max and r.body and #r.body > wants.max then return nil, "body_too_large", "the body is longer than the type's `body` reads" end
  given.streams = not wants
  return require("example").request(given)
end

local function same_list(a, b)
  if type(a) ~= "table" or type(b) ~= "table" or #a ~= #b then return false end
  for i, v in ipairs(a) do
    if v ~= b[i] then return false end
  end
  return true
end

-- want = { access_token = "t1", expires_at = 1700003600, granted = { "scope" } }, or the first under `secrets`, as refresh
-- returns it.
local function compare_state(state, want)
  local net, secrets = require "cli.policy_net", {}
  for name, v in pairs(want) do
    if name == "secrets" and type(v) == "table" then
      for inner, text in pairs(v) do secrets[inner] = text end
    elseif name == "plain" then
      for member, text in pairs(type(v) == "table" and v or {}) do
        local why = differs("state.plain." .. member, (state.plain or {})[member], text)
        if why then return why end
      end
    elseif name == "granted" then
      if not same_list(state.granted, v) then return "state.granted is not what the example wants" end
    elseif name == "expires_at" then
      local why = differs("state.expires_at", state.expires_at, v)
      if why then return why end
    else
      secrets[name] = v
    end
  end
  for name, v in pairs(secrets) do
    local got = state.secrets[name]
    local why = differs("state." .. name, got and net.reveal(got), v)
    if why then return why end
  end
end

local function compare_sent(sent, want, check, i)
  for n, one in ipairs(want) do
    if type(one) ~= "table" then return "want.sent is a list of requests" end
    if not check:keys(one, sent_keys, "want.sent", { "examples", i, "want", "sent", n }) then return check.why end
    if not sent[n] then return ("refresh sent %d request%s, the example wants %d"):format(#sent, #sent == 1 and "" or "s", #want) end
    local why = one.method and differs("the method", sent[n].method, one.method) or compare(sent[n], one)
    if why then return ("request %d of refresh: %s"):format(n, why) end
  end
  if #sent > #want then return ("refresh sent %d requests, the example wants %d"):format(#sent, #want) end
end

--- Runs refresh on answers: state | nil, code, message; then the requests that it sent, what answer was wanting, and the number
-- of one that was not used.
local function refreshed(pol, cred, answers)
  local net, sent, ended = require("cli.policy_net").net(pol, cred, answers)
  local state, code, message = policy.refresh(pol, cred, net, require("time").now() + 10000, sandbox.call)
  local wanting, unused = ended()
  if wanting then return nil, "policy_failed", wanting, sent, wanting end
  return state, code, message, sent, nil, unused
end
M.refreshed = refreshed

-- What refresh came to against what the example wants. nil, new state: `apply` is the next; nil: the example is through
local function refresh_example(pol, ex, check, i, cred)
  local want = ex.want
  if not pol.refresh then return "answers are for a type with refresh" end
  local wrong = require("cli.policy_net").check(ex.answers, check, i)
  if wrong then return wrong end
  local state, code, message, sent, lacks, unused = refreshed(pol, cred, ex.answers)
  if lacks then return lacks end
  if unused and (state or want.error) then return ("refresh did not ask for answer %d"):format(unused) end
  for k in pairs(not state and type(message) == "table" and message or {}) do
    if not detail_keys[k] then return ("the detail that refresh returns has no key '%s'%s"):format(tostring(k), policy.meant(k, detail_keys)) end
  end
  if not state and not want.error then
    code = tostring(code)
    local said = type(message) == "string" and (code == "policy_failed" and message or code .. ": " .. message) or code
    return "refresh failed: " .. said
  end
  local why = want.sent and compare_sent(sent, want.sent, check, i)
  if why then return why end
  if not state then return want.error ~= true and differs("the error", tostring(code), want.error) or nil end
  why = want.state and compare_state(state, want.state)
  if why then return why end
  local applies = ex.req ~= nil
  for k in pairs(applied_keys) do applies = applies or want[k] ~= nil end
  if not applies then return want.error and "refresh succeeds, the example wants an error" or nil end
  local kept = {}
  for _, part in ipairs { state.plain or {}, state.secrets } do
    for name, v in pairs(part) do
      -- what the store keeps counts as a field again
      kept[name] = require("secret").is(v) and require("secret.core").as_field(v) or v
    end
  end
  return nil, kept
end

--- Takes off the request what leaves it before `apply`: true | nil, code, message.
function M.strip(pol, req, cred)
  local spec, code, message = policy.strip(pol, cred)
  if not spec then return nil, code, message end
  local carriers = require "carriers"
  local _, headers = carriers.names { spec.headers or {}, pol.carriers.headers or {}, carriers.headers }
  local is_form = spec.form and require("body").of(req:view().headers).form
  req:strip { headers = headers, query = carriers.names { spec.query or {}, pol.carriers.query or {} }, form = is_form and spec.form or nil }
  return true
end

-- The answer to the call against the rows of `seal`, and what the example wants of it: the seconds of each member that is sealed; false: none is,
-- for no row holds; mint_denied: the call is refused; seal_failed: the answer is. nil: both say the same
local function seal_example(pol, ex, check, i, cred)
  local of, r, want = require "cli.seal_try", ex.req or {}, ex.want.sealed
  if want == nil then return "response = {…} goes with want.sealed: what of it is sealed" end
  if ex.response and not check:keys(ex.response, of.keys, "response", { "examples", i, "response" }) then return check.why end
  local call = { method = r.method or "GET", url = r.url or "https://api.example.com/", headers = r.headers, body = r.body }
  local url = require("http").parse_url(call.url)
  if not url then return "req.url is no URL" end
  local makes = policy.mint(pol, { method = call.method, host = url.host, query = url.query, readings = function() return paths.ways(url.path) end },
    require("example").request(call):view(), cred)
  local becomes, met = of.judge(pol.seal, nil, call, makes or nil)
  if becomes ~= "seal" then
    if type(want) == "table" then return "the example wants something sealed, and " .. (becomes and "the call is refused: mint_denied" or "no row of `seal` holds for the call") end
    return differs("want.sealed", becomes and "mint_denied" or nil, want)
  end
  local a, body = ex.response or {}, (ex.response or {}).body or ""
  local headers = {}
  for name, value in pairs(a.headers or {}) do headers[#headers + 1] = { tostring(name):lower(), tostring(value) } end
  local list, why = of.answer(met, call, { status = a.status or 200, headers = headers, body = type(body) == "table" and require("json").encode(body) or body },
    { now = policy.wall(), most = require("records").setting("seal-max").default })
  if type(want) ~= "table" then
    if not list and want == "seal_failed" then return nil end
    return differs("want.sealed", list and "a table of members" or ("seal_failed (%s)"):format(why), want)
  end
  if not list then return ("the example wants something sealed, and it is seal_failed: %s"):format(why) end
  local got = {}
  for _, s in ipairs(list) do got[s.member] = s.seconds end
  for name, s in pairs(want) do
    local wrong = differs("the time of the sealed " .. tostring(name), got[name], s)
    if wrong then return wrong end
    got[name] = nil
  end
  local more = next(got)
  return more and ("%s is sealed, too"):format(more) or nil
end

-- nil where the example comes out as it says; else what differs.
local function type_example(pol, ex, check, i)
  if ex.req and not check:keys(ex.req, request_keys, "req", { "examples", i, "req" }) then return check.why end
  if not check:keys(ex.want, want_keys, "want", { "examples", i, "want" }) then return check.why end
  local values, why, state = example_values(pol, ex.cred)
  if not values then return why end
  local cred = strict(pol, values, state, not ex.answers)
  if not ex.answers and (ex.want.state or ex.want.sent) then return "want.state and want.sent go with answers = {…}" end
  if ex.answers then
    local wrong, new = refresh_example(pol, ex, check, i, cred)
    if wrong or not new then return wrong end
    cred = strict(pol, values, new, true)
  end
  if ex.response or ex.want.sealed ~= nil then
    local wrong = seal_example(pol, ex, check, i, cred)
    local applies = false
    for k in pairs(ex.want) do applies = applies or k ~= "sealed" end
    if wrong or not applies then return wrong end
  end
  local req, code, message = M.request(pol, ex.req or {}, cred)
  local ok = req ~= nil
  if ok then ok, code, message = M.strip(pol, req, cred) end
  if ok then ok, code, message = policy.apply(pol, req, cred) end
  if ok then code = nil end
  local want = ex.want.error or nil
  if code and not want then return ("%s: %s"):format(code, message) end
  if want == true then return code == nil and "it succeeds, the example wants an error" or nil end
  return differs("the error", code, want) or want == nil and compare(req:dump(), ex.want) or nil
end

local function run_type_example(...)
  local ok, why = policy.held_still(type_example, ...)
  if not ok then error(why, 0) end
  return why
end

local function run_match_example(pol, ex, check, i)
  if not check:keys(ex.want, match_want_keys, "want", { "examples", i, "want" }) then return check.why end
  if ex.question and not check:keys(ex.question, question_keys, "question", { "examples", i, "question" }) then return check.why end
  local asked = ex.question or {}
  local present = {}
  for _, id in ipairs(asked.presents or {}) do present[id] = true end
  local question = {
    method = asked.method, tls = asked.tls, port = asked.port,
    readings = function(known) return paths.readings(paths.ways, asked.path or "/", known) end,
    presents = function(item) return present[item.id] or false end,
  }
  local ok, item, code = sandbox.call(pol.name, function()
    local index = pol.new()
    for _, given in ipairs(ex.items or {}) do pol.add(index, given) end
    return pol.decide(pol.candidates(index, ex.bundles or {}, ex.host), question)
  end)
  if not ok then return item end
  if item then code = nil end  -- the second answer is its bundle then
  return differs("the item", item and item.id, ex.want.id) or differs("the code", code, ex.want.code)
end

local with_keys = { agent = "string", bundle = "string", credential = "string", wall = "integer", offset = "integer" }
M.keys.with = with_keys

--- What a rule that reads bodies is told of this one, as the pipeline has it: seen.body, seen.found, seen.pushed. call: sandbox.call;
-- body: text, or nil: there is none. nil | what went wrong
function M.reads(rule, call, seen, req, body, readings)
  local pol, of = rule.pol, require("body").of(req:view().headers)
  seen.body, seen.found, seen.pushed = pol.body and body or nil, nil, nil
  if pol.members and body then
    local reading = require "reading"
    local members, why = require("rules").members(rule, call)
    if not members then return why end
    local reader = not of.why and pol.reads[of.kind] and reading.new(of.kind, members, of.boundary) or nil
    local _, unread
    if reader then _, unread = reading.whole(reader, body, function() end) end
    seen.found = require("rules").found(rule, of, reader, unread)
  end
  if pol.reader and require("pktline").wanted({ method = req.method, has_body = body ~= nil }, readings) then
    local push, why = require("pktline").parse(body)
    seen.pushed = of.encoded and of.why or push or why or "the commands of this push do not end"
  end
end

--- Asks a rule with these fields about the request r = { method, url, headers, body }, as rules.ask answers it; "rule_failed", why: it cannot
-- be asked. with: { agent, bundle, credential, wall, offset }; count: as rules.ask has it.
function M.asked(pol, values, r, with, count)
  local rules = require "rules"
  local req = require("example").request { method = r.method or "GET", url = r.url or "https://api.example.com/", headers = r.headers or {}, body = r.body }
  local question = { method = req.method, host = req.host, readings = function() return paths.readings(paths.ways, req.path) end }
  local rule = rules.ready({ { name = "example", type = pol.name, fields = values } },
    { load = function() return pol end }, policy, require("config").freeze)[1]
  if rule.why then return "rule_failed", rule.why end
  local fields = rule.fields
  rule.fields = setmetatable({}, { __pairs = function() return pairs(fields) end, __index = function(_, name)
    if type(name) == "string" and not pol.by_name[name] then
      error(("the type has no field '%s'%s"):format(name, policy.meant(name, pol.by_name)), 2)
    end
    return fields[name]
  end })
  local seen, shown = rules.request(req, question, req:view())
  local why = M.reads(rule, sandbox.call, seen, req, r.body, question.readings())
  if why then return "rule_failed", why end
  return rules.ask(rule, sandbox.call, shown, {
    agent = with.agent or "a", bundle = with.bundle or "default", credential = with.credential,
    wall = with.wall or policy.wall(), offset = with.offset or 0, count = count,
  })
end

-- What an example counted and `counters` does not say, or says of another window; nil: nothing. counted: { [key] = { window, kept } }
local function undeclared(pol, ex, counted)
  if not pol.counters then return nil end
  local rows, why = policy.counters(pol, require("config").freeze(policy.view(pol, ex.rule or {})), sandbox.call)
  if not rows then return why end
  local with, url = ex.with or {}, require("http").parse_url((ex.req or {}).url or "https://api.example.com/")
  local names = { agent = with.agent or "a", credential = with.credential or "", host = url and url.host or "", all = "*" }
  local declared = {}
  for _, row in ipairs(rows) do
    for key, kept in pairs { [row.key] = row.kept, [row.held or false] = false } do
      if key then
        local at, to = key:find("{}", 1, true)
        declared[at and key:sub(1, at - 1) .. names[row.per] .. key:sub(to + 1) or key] = { row.window, kept }
      end
    end
  end
  for key, how in pairs(counted) do
    local is = declared[key]
    if not key:find("^warned ") and not is then return ("it counts under the key %q, which `counters` does not say"):format(key) end
    if is and is[1] ~= how[1] then return ("it counts %q in the window %s, and `counters` says %s"):format(key, how[1], is[1]) end
    if is and is[2] ~= how[2] then return ("of %q `counters` says kept = %s, and it counts otherwise"):format(key, is[2]) end
  end
end

-- want: the reason, or the sentence of a limit; true: any refusal; nothing: it goes on.
local function run_rule_example(pol, ex, check, i)
  if ex.req and not check:keys(ex.req, request_keys, "req", { "examples", i, "req" }) then return check.why end
  if ex.with and not check:keys(ex.with, with_keys, "with", { "examples", i, "with" }) then return check.why end
  local counts, counted = ex.counts or {}, {}
  local code, message, _, options = M.asked(pol, ex.rule or {}, ex.req or {}, ex.with or {}, function(key, window, n, _, kept)
    counted[key:match("\n(.*)$")] = { window, kept == true }
    return (counts[key:match("\n(.*)$")] or counts[key:match("\n(.*)$") == "a" and "" or false] or 0) + n
  end)
  if code == "rule_failed" then
    check.why = options and options.trouble     -- it names a line of its own
    return check.why or message
  end
  local got = code and message:gsub("^rule example: ", "") or nil
  local unsaid = undeclared(pol, ex, counted)
  if unsaid then return unsaid end
  if ex.want == true then return not got and "it goes on, the example wants a refusal" or nil end
  return differs("the reason", got, ex.want)
end

local example_runs = {
  type = run_type_example, match = run_match_example,
  presets = presets.run_example, rule = run_rule_example,
}

--- Runs the examples: true, how many | nil, "policies/NAME.lua:LINE: example N: …".
function M.check(pol)
  local run = example_runs[pol.kind]
  if pol.kind == "presets" then
    local check = policy.checker(pol)
    if not presets.fit(check, pol) then return nil, check.why end
  end
  local clock = os and os.clock or function() return 0 end   -- commands alone have one
  local began = clock()
  for i, ex in ipairs(pol.examples) do
    local check = policy.checker(pol)
    if clock() - began > EXAMPLES_CPU then
      return nil, ("%s:%d: the examples took more than %d s of processor time, and example %d was still to run"):format(
        policy.file_of(pol.name), policy.line_of_examples(pol), EXAMPLES_CPU, i)
    end
    -- An example holds values of the policy's own making: whatever breaks here is the example's fault.
    local ok, why = pcall(run, pol, ex, check, i)
    if not ok or why then
      local text = tostring(why)
      local place = why == check.why and text:match("^policies/[%w_]+%.lua:%d+") -- what is wrong has its own line
        or ("%s:%d"):format(policy.file_of(pol.name), policy.line_of_examples(pol, i))
      return nil, ("%s: example %d: %s"):format(place, i, text:gsub("^policies/[%w_]+%.lua:%d+: ", ""))
    end
  end
  return true, #pol.examples
end

-- A value of the field's type, of nobody's credential.
local function made_up(f)
  local function secret() return require("secret.core").as_field(require("secret.core").of("x")) end
  if f.split then
    local out = {}
    for member, spec in pairs(f.split) do out[member] = spec.secret and secret() or spec.url and "https://made-up.example/" or "x" end
    return out
  end
  if f.type == "map" then return {} end
  if f.secret then return secret() end
  local by_type = { url = "https://made-up.example/", integer = f.min or 1, boolean = false, enum = f.values and f.values[1], list = { "x" } }
  return by_type[f.type] == nil and "x" or by_type[f.type]
end

-- A refresh that no example runs, tried on an endpoint that answers whatever is asked for: nil, or why what it returns
-- has the wrong shape. What else goes wrong is the trial's own fault, perhaps.
local function misshapen(pol)
  local values, state = {}, nil
  for _, ex in ipairs(pol.examples) do
    if next(values) == nil then
      local got, _, of_state = example_values(pol, ex.cred)
      values, state = got or {}, of_state
    end
  end
  for _, f in ipairs(pol.fields) do
    if values[f.name] == nil and f.required then values[f.name] = made_up(f) end
  end
  local found
  local listener = require("policy_log").listen(nil)
  local ok = policy.held_still(function()
    local _, code, message = refreshed(pol, strict(pol, values, state), nil)
    code, message = tostring(code), tostring(message)
    found = code == "policy_failed" and (message:find("refresh returned ", 1, true) or message:find("what refresh returns", 1, true))
      and message
  end)
  require("policy_log").listen(listener)
  return ok and found or nil
end

--- What a policy lacks, in sentences: for whoever puts or tests it.
function M.notes(pol)
  local notes, answered = {}, false
  if pol.kind == "rule" and #pol.examples == 0 then
    notes[1] = "it has no examples, so nothing says what it refuses: examples = { { req = {…}, want = \"…\" } }"
  end
  if pol.kind == "rule" and not pol.counters then
    local code = pol.source:gsub("%-%-[^\n]*", "")
    if code:find("%f[%w_]limit%s*%(") or code:find("%.count%s*%(") then
      notes[#notes + 1] = "it counts, and does not say what: with counters = { … } `rule show` and the page say how far it came"
    end
  end
  if pol.kind ~= "type" then return notes end
  for _, ex in ipairs(pol.examples) do answered = answered or ex.answers ~= nil end
  if #pol.examples == 0 then
    notes[1] = "it has no examples, so nothing says that it works: examples = { { cred = {…}, want = {…} } }"
  elseif pol.refresh and not answered and pol.source ~= sandbox.default_source(pol.name) then
    notes[1] = "no example runs its refresh: answers = { { status = 200, body = {…} } } in one would"
  end
  local sealed = not pol.seal[1] or pol.source == sandbox.default_source(pol.name)
  for _, ex in ipairs(pol.examples) do sealed = sealed or ex.want.sealed ~= nil end
  if not sealed then notes[#notes + 1] = "no example says what its rows of `seal` make of an answer: response = { body = {…} }, want = { sealed = { token = 600 } }" end
  return notes
end

--- Compiles and runs the examples: pol, how many | nil, why.
function M.test(name, source)
  local pol, why = policy.compile(name, source)
  if not pol then return nil, why end
  if pol.kind == "type" then
    local comparisons = require "cli.comparisons"
    local line = comparisons.find(source, comparisons.fields(pol))
    if line then
      return nil, ("%s:%d: a secret is compared with a text: it is a handle, and no handle equals one. If the text is the secret, give it to the credential")
        :format(policy.file_of(name), line)
    end
  end
  local ok, count = M.check(pol)
  if not ok then return nil, count end
  local wrong = pol.kind == "type" and pol.refresh and misshapen(pol)
  if wrong then return nil, wrong end
  return pol, count
end

return M
