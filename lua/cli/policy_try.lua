--- sallyport policy try: what a type makes of a request that is never sent.
-- No secret of the store or of a file is used: texts of the moment stand for them, so that «name» can be shown wherever they come
-- out, and a signature that is shown is worth nothing. For a private key it is a key that everybody has.
local core = require "secret.core"
local examples = require "cli.policy_examples"
local fields = require "cli.fields"
local http = require "http"
local policy = require "policy"
local report = require "cli.report"
local sandbox = require "sandbox"
local M = {}

local LETTERS_MIN = 24      -- of a text in Base64 in which a stand-in could be: they have 64

-- Generated for this purpose, P-256: it opens nothing.
local EC_KEY = [[
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDCzLK9BEY0+AUU+n
ovBQX/cBxBixMC5PLoXKpHw8VAmhRANCAAQxNd6mB7K36cjJgloUDRPsGKk4G+wa
MyWr2m9SjxjTwHF4hMaSYR1ZKO9aQ7N7lTuMnxxMTXb7Fje7IxRGcsSo
-----END PRIVATE KEY-----
]]

-- ---- stand-ins -----------------------------------------------------------------------------------

-- 64 hexadecimal digits: good as a text, and to be decoded from hex, Base64 or base64url.
local function text_of(self, label)
  local _, digest = self.host.random_token ""
  self.shown[#self.shown + 1] = { digest, "«" .. label .. "»" }
  return digest
end

local function stand_in(self, label, pem)
  local text
  if pem then
    self.pem = true
    text = self.ec and EC_KEY or self.host.stand_in_key()
    self.shown[#self.shown + 1] = { text, "«" .. label .. "»" }
  else
    text = text_of(self, label)
  end
  return core.as_field(core.of(text))
end

local function member_pem(name) return name:find("private_key$") ~= nil or name:find("pem$") ~= nil end

-- In place of each secret among the values.
local function replace(self, pol, values)
  local is = require("secret").is
  for _, f in ipairs(pol.fields) do
    local v = values[f.name]
    if is(v) then
      values[f.name] = stand_in(self, f.name, f.type == "pem")
    elseif type(v) == "table" then
      for k, member in pairs(v) do
        if is(member) then v[k] = stand_in(self, f.name .. "." .. k, member_pem(k)) end
      end
    end
  end
end

-- What the operator's text shows for a text that goes out.
local function masked(self, text)
  for _, pair in ipairs(self.shown) do
    local at = 1
    while true do
      local s, e = text:find(pair[1], at, true)
      if not s then break end
      text, at = text:sub(1, s - 1) .. pair[2] .. text:sub(e + 1), s + #pair[2]
    end
    -- in hex, as JSON or a URL would have it all letters stay
    local hex = require("secret").hex(pair[1])
    local s, e = text:find(hex, 1, true)
    if s then text = ("%shex(%s)%s"):format(text:sub(1, s - 1), pair[2], text:sub(e + 1)) end
  end
  return (text:gsub("[%w+/_-]+=*", function(run)
    if #run < LETTERS_MIN then return nil end
    local decoded = require("secret").decode(run:find("[-_]") and "base64url" or "base64", run)
      or require("secret").decode("base64url", run)
    for _, pair in ipairs(decoded and self.shown or {}) do
      if decoded:find(pair[1], 1, true) then return "base64(" .. masked(self, decoded) .. ")" end
    end
  end))
end

-- ---- a credential of nobody's --------------------------------------------------------------------

-- Does one of these hosts cover it? One with variables may.
local function goes_to(hosts, host)
  for _, h in ipairs(hosts or {}) do
    local below = h:match("^%*(%..+)$")
    if h == host or h:find("${", 1, true) or below and host:sub(-#below) == below then return true end
  end
  return false
end

-- From a record of the store, of which no secret is opened: { values, headers, state names }.
local function from_record(self, pol, name)
  local db = require "cli.db"
  local rec = db.need("credential", name)
  if rec.type ~= pol.name then
    report.fail(("'%s' is of the type %s, not %s"):format(name, rec.type, pol.name))
  end
  self.hosts, self.record = rec.hosts, rec
  local values, headers = {}, {}
  for k, v in pairs(rec.fields or {}) do values[k] = v end
  for k, v in pairs(rec.headers or {}) do headers[k] = v end
  for k, members in pairs(rec.split or {}) do
    values[k] = {}
    for member, v in pairs(members) do values[k][member] = v end
  end
  for _, sealed in ipairs(rec.sealed or {}) do
    local field, member = sealed:match("^f/([^/]+)/?(.*)$")
    local header, f = sealed:match("^h/(.+)$"), pol.by_name[field or ""]
    if header then
      headers[header] = stand_in(self, "headers." .. header)
    elseif f and member == "" then
      values[field] = stand_in(self, field, f.type == "pem")
    elseif f then
      if type(values[field]) ~= "table" then values[field] = {} end
      values[field][member] = stand_in(self, field .. "." .. member, member_pem(member))
    end
  end
  local kept = pol.refresh and db.peek("state", name, "its token")
  return values, headers, kept and kept.obtained_at and kept.sealed or nil
end

-- From what was typed. Plain fields that are missing come from the file's first example, secrets from nowhere.
local function from_words(self, pol, typed)
  local values, headers, borrowed = typed.values, typed.headers, {}
  replace(self, pol, values)
  for sealed in pairs(typed.sealed) do
    local header = sealed:match("^h/(.+)$")
    if header then headers[header] = stand_in(self, "headers." .. header) end
  end
  local first = pol.examples[1] and pol.examples[1].cred or {}
  for _, f in ipairs(pol.fields) do
    if values[f.name] == nil and f.secret and f.type ~= "map" and (f.required or first[f.name] ~= nil) then
      values[f.name] = stand_in(self, f.name, f.type == "pem")
    elseif values[f.name] == nil and (f.required and f.default == nil or self.bare) and first[f.name] ~= nil then
      values[f.name] = (examples.values(pol, { [f.name] = first[f.name] }) or {})[f.name]
      borrowed[#borrowed + 1] = f.name
    elseif values[f.name] == nil and f.required and not f.secret then
      report.usage(("%s is missing: %s=…"):format(f.name, f.name), "or --credential NAME: one that is kept")
    end
  end
  replace(self, pol, values)
  return values, headers, nil, borrowed
end

-- The answers of the first example whose refresh succeeds.
local function answers_of(pol)
  for _, ex in ipairs(pol.examples) do
    if ex.answers and not ex.want.error then return ex.answers end
  end
end

-- The token: what `refresh` returns on an example's answers, else what is kept, or a text for the usual one.
local function state_of(self, pol, values, kept, result)
  if not pol.refresh then return nil end
  local answers, state = not kept and answers_of(pol), {}
  if answers then
    local got, code, message, sent = examples.refreshed(pol, examples.strict(pol, values, nil), answers)
    result.sent = {}
    for i, r in ipairs(sent or {}) do result.sent[i] = r end
    if not got then return nil, tostring(code), message end
    result.token = "as refresh returned it on an example's answers"
    for name in pairs(got.secrets) do state[name] = stand_in(self, name) end
    return state
  end
  result.token = kept and "a text for the one that is kept: no example has answers to try refresh on, or it is kept"
    or "a text for it: no example has answers to try refresh on"
  if kept then result.token = "a text for the one that is kept" end
  for _, name in ipairs(kept or { "access_token" }) do
    if name ~= "refresh_token" then state[name] = stand_in(self, name) end
  end
  return state
end

-- ---- the request ---------------------------------------------------------------------------------

local function names_of(req)
  local set, query = {}, {}
  for _, name in ipairs(req:view().headers:names()) do set[name] = true end
  local text = req:dump().url:match("%?(.*)$")
  for _, pair in ipairs(text and require("uri").parse_query(text) or {}) do query[pair[1]] = true end
  return set, query
end

local function stripped(before, query_before, req)
  local now, query_now = names_of(req)
  local gone = {}
  for name in pairs(before) do if not now[name] then gone[#gone + 1] = name end end
  for name in pairs(query_before) do if not query_now[name] then gone[#gone + 1] = "?" .. name end end
  table.sort(gone)
  return gone
end

local function set_headers(req, headers)
  local view = req:view()
  for name, value in pairs(headers) do view.headers:set(name, value) end
end

-- What becomes of the call's answer: result.seals, the rows that hold; with an answer result.sealed, what of it is sealed, or result.seal_fails.
local function seal_rows(self, pol, spec, result, makes)
  local of, rec = require "cli.seal_try", self.record or {}
  local rows = require("seal").rows_of(pol, rec.preset and require("presets").get(rec.preset))
  local becomes, met = of.judge(rows, rec.mint, spec, makes)
  if becomes == "refuse" then result.makes = met end
  if becomes == "seal" then result.makes = nil end
  if becomes == "refuse" or becomes ~= "seal" and not spec.answer then return end
  result.seals, met = {}, becomes == "seal" and met or {}
  for i, row in ipairs(met) do result.seals[i] = of.told(row) end
  if not spec.answer or not met[1] then return end
  local answer, why = of.parse(spec.answer)
  if not answer then report.usage("--answer: " .. why, "a body, or what curl -i shows: --answer @answer.txt") end
  local kept = self.record and require("store").get("meta", "set/seal-max")
  local list, fails = of.answer(met, spec, answer, { now = require("time").wall(), most = kept and kept.value or require("records").setting("seal-max").default })
  result.seal_fails, result.sealed = fails, {}
  for i, s in ipairs(list or {}) do result.sealed[i] = { member = s.member, seconds = s.seconds, shape = s.shape, begins = s.begins, opens = of.told(s.row).opens } end
end

-- { before, after, stripped, sent, instructions } | nil, code, message, the same so far
local function run(self, pol, spec)
  local result, values, headers, kept, borrowed = {}, nil, nil, nil, nil
  self.shown = {}
  if spec.credential then
    values, headers, kept = from_record(self, pol, spec.credential)
  else
    values, headers, kept, borrowed = from_words(self, pol, spec.read())
  end
  result.borrowed = borrowed
  local state, code, message = state_of(self, pol, values, kept, result)
  if code then return nil, code, message, result end
  local cred = examples.strict(pol, values, state, true)
  local ok, req
  ok, req, code, message = pcall(examples.request, pol, spec, cred)
  if not ok then report.usage("that is no request: " .. tostring(req):gsub("^.-:%d+: ", "")) end
  if not req then return nil, code, message, result end
  result.before = req:dump()
  local had, query_had = names_of(req)
  local done
  done, code, message = examples.strip(pol, req, cred)
  if not done then return nil, code, message, result end
  result.stripped = stripped(had, query_had, req)
  local url = http.parse_url(spec.url)
  if spec.credential and not goes_to(self.hosts, url.host) then
    result.elsewhere = ("'%s' goes to %s: a request to %s would go out without it"):format(spec.credential, table.concat(self.hosts, ", "), url.host)
  end
  local makes = policy.mint(pol, { method = spec.method, host = url.host, query = url.query,
    readings = function() return require("paths").ways(url.path) end }, req:view(), cred)
  result.makes = type(makes) == "string" and makes or nil
  seal_rows(self, pol, spec, result, result.makes)
  set_headers(req, headers)
  done, code, message = policy.apply(pol, req, cred)
  result.instructions = sandbox.spent()
  if not done then return nil, code, message, result end
  set_headers(req, headers)
  result.after = req:dump()
  return result
end

-- ---- what is shown -------------------------------------------------------------------------------

-- Text that may be shown: bytes that are not UTF-8 as \xNN.
local function readable(text) return utf8.len(text) and text or require("policy_log").escape(text) end

local function lines_of(self, r, out)
  out[#out + 1] = ("  %s %s"):format(r.method, masked(self, r.url))
  local names = {}
  for name in pairs(r.headers) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    if name:lower() ~= "host" then out[#out + 1] = ("  %s: %s"):format(name:lower(), masked(self, r.headers[name])) end
  end
  if r.body == "" then return end
  out[#out + 1] = ""
  for line in (masked(self, r.body):gsub("\n$", "") .. "\n"):gmatch("(.-)\n") do out[#out + 1] = "  " .. line end
end

local function shown_request(self, r)
  if not r then return nil end
  local headers = {}
  for name, v in pairs(r.headers) do
    if name:lower() ~= "host" then headers[name:lower()] = readable(masked(self, v)) end
  end
  return { method = r.method, url = masked(self, r.url), headers = headers, body = r.body ~= "" and readable(masked(self, r.body)) or nil }
end

local function say_json(self, ctx, result, log)
  local sent = report.array()
  for i, r in ipairs(result.sent or {}) do sent[i] = shown_request(self, r) end
  for i, text in ipairs(log) do log[i] = readable(text) end
  for _, row in ipairs(result.seals or {}) do
    for _, list in ipairs { "members", "optional", "opens", "hosts" } do report.array(row[list]) end
  end
  for _, s in ipairs(result.sealed or {}) do report.array(s.opens) end
  report.answer(ctx, { before = shown_request(self, result.before), after = shown_request(self, result.after),
    stripped = report.array(result.stripped), sent = sent, log = report.array(log), instructions = result.instructions,
    token = result.token, borrowed = report.array(result.borrowed), makes = result.makes,
    seals = result.seals and report.array(result.seals), sealed = result.sealed and report.array(result.sealed), seal_fails = result.seal_fails, elsewhere = result.elsewhere, error = result.error })
end

local function list_of(list, none) return list[1] and table.concat(list, ", ") or none end

-- What is sealed of the answer, in lines.
local function say_seals(result, out)
  for _, row in ipairs(result.seals or {}) do
    out[#out + 1] = ("seals     %s of the answer, as the row %s says (%s)%s"):format(list_of(row.members, "nothing"), row.call, row.what,
      row.challenge and (", where the host's challenge at %s names this call"):format(row.challenge) or "")
    if row.optional[1] then out[#out + 1] = "          and where it is there: " .. list_of(row.optional) end
    local time = type(row.ttl) == "number" and require("records").span(row.ttl) or row.ttl and "as long as the answer's " .. row.ttl .. " says" or "1h"
    out[#out + 1] = ("          the text lives %s%s; it opens in %s%s"):format(time, row.shape and ", and keeps a JWT's header and claims"
      or row.prefix and (", and begins with %s"):format(row.prefix) or "", list_of(row.opens), row.hosts[1] and ", and at " .. list_of(row.hosts) .. ", too" or "")
  end
  if result.seals and not result.seals[1] then out[#out + 1] = "seals     nothing: no row of `seal` holds for this call" end
  for _, s in ipairs(result.sealed or {}) do
    out[#out + 1] = ("sealed    %s, for %s%s; opens in %s"):format(s.member, s.seconds > 0 and require("records").span(s.seconds) or "no time: it has ended",
      s.shape and ", as a JWT" or s.begins and (", beginning with %s"):format(s.begins) or "", list_of(s.opens))
  end
  if result.sealed and not result.sealed[1] and not result.seal_fails then out[#out + 1] = "sealed    nothing: this answer has none of these" end
  if result.seal_fails then out[#out + 1] = "fails     502 seal_failed: " .. result.seal_fails end
end

local function say(self, ctx, result, log)
  if ctx.json then return say_json(self, ctx, result, log) end
  local out = {}
  for _, r in ipairs(result.sent or {}) do
    out[#out + 1] = "refresh would send"
    lines_of(self, r, out)
  end
  if result.before then
    out[#out + 1] = "before"
    lines_of(self, result.before, out)
  end
  if result.stripped then out[#out + 1] = "stripped  " .. (#result.stripped > 0 and table.concat(result.stripped, ", ") or "nothing") end
  if result.after then
    out[#out + 1] = "after"
    lines_of(self, result.after, out)
  end
  for _, text in ipairs(log) do out[#out + 1] = "log       " .. text end
  if result.instructions then
    out[#out + 1] = ("used      %s of 2,000,000 instructions"):format(result.instructions == 0 and "fewer than 200"
      or "about " .. result.instructions)
  end
  if result.token then out[#out + 1] = "token     " .. result.token end
  if result.borrowed and #result.borrowed > 0 then
    out[#out + 1] = "fields    from the file's first example: " .. table.concat(result.borrowed, ", ")
  end
  if result.elsewhere then out[#out + 1] = "note      " .. result.elsewhere end
  say_seals(result, out)
  if result.makes then
    out[#out + 1] = ("note      it would make %s: an agent is refused that unless the credential says mint=allow"):format(result.makes)
  end
  for i, line in ipairs(out) do out[i] = report.clean(line) end
  ctx.out(table.concat(out, "\n") .. "\n")
end

-- A draft of what matches decides in the place of the one in force, in this process and for this once: what `explain` says then.
local function try_match(ctx, pol, spec)
  local policies, headers = require "policy_store", {}
  for name, value in pairs(spec.headers) do headers[#headers + 1] = ("%s: %s"):format(name, value) end
  local load <const> = policies.load
  function policies.load(name)
    if name == pol.name then return pol end
    return load(name)
  end
  local _ <close> = setmetatable({}, { __close = function() policies.load = load end })
  return require("cli.explain")[1].run({ spec.method, spec.url }, { agent = spec.agent, header = headers }, ctx)
end

local decided = { approval_timeout = "ask" }

-- What a draft of a rule says to a request; its counters stand at nothing.
local function try_rule(ctx, pol, spec)
  local log, counted = {}, report.array()
  local typed = spec.read()
  local ok, field, why = policy.check_credential(pol, typed.values)
  if not ok then report.usage(field and ("%s %s"):format(field, why) or why, ("sallyport policy try %s GET https://… %s=…"):format(pol.name, field or "FIELD")) end
  local was = require("policy_log").listen(function(_, text) log[#log + 1] = readable(text) end)
  local fine, code, message, hint, options = pcall(examples.asked, pol, typed.values, spec, { agent = spec.agent, wall = require("time").wall() }, function(key, window, n)
    counted[#counted + 1] = { key = readable(key:match("\n(.*)$")), window = tostring(window), n = n }
    return n
  end)
  require("policy_log").listen(was)
  if not fine then report.usage("that is no request: " .. tostring(code):gsub("^.-:%d+: ", "")) end
  if code == "rule_failed" then report.fail(spec.place(options and options.trouble or message)) end
  local said = message and message:gsub("^rule example: ", ""):gsub("^a person is asked: ", "")
  local decision = code and (decided[code] or "deny") or "allow"
  report.answer(ctx, { decision = decision, code = code, message = said, hint = decision == "deny" and not (hint or ""):find("sallyport rule show example", 1, true) and hint or nil, counted = counted,
    log = report.array(log), instructions = sandbox.spent() })
  if ctx.json then return 0 end
  local out = { decision == "allow" and "it goes on" or ("%s  %s"):format(decision == "ask" and "it asks a person" or "it refuses", said) }
  for _, c in ipairs(counted) do out[#out + 1] = ("counted   %d for %s in %s"):format(c.n, c.key, c.window) end
  for _, text in ipairs(log) do out[#out + 1] = "log       " .. text end
  for i, line in ipairs(out) do out[i] = report.clean(line) end
  ctx.out(table.concat(out, "\n") .. "\n")
  return 0
end

--- spec = { method, url, headers = { name = value }, body, agent = whose request a rule or what matches is asked about | nil, credential = name | nil, read = function() -> fields.read's }:
-- exit 0 | 1.
function M.run(ctx, pol, spec)
  if pol.kind == "match" then return try_match(ctx, pol, spec) end
  if pol.kind == "rule" then return try_rule(ctx, pol, spec) end
  if pol.kind ~= "type" or not pol.apply then report.fail(("%s is no credential type, rule or way to match"):format(pol.name)) end
  local log = {}
  local was = require("policy_log").listen(function(_, text) log[#log + 1] = text end)
  local self, result, code, message, so_far
  for _, ec in ipairs { false, true } do        -- which kind of private key it wants, only the type knows
    log = {}
    self = { host = ctx.host, ec = ec, bare = spec.bare }
    result, code, message, so_far = run(self, pol, spec)
    if result or not self.pem then break end
  end
  require("policy_log").listen(was)
  for i, text in ipairs(log) do log[i] = masked(self, text) end
  if not result then
    local text = spec.place(masked(self, tostring(message or code)))
    if code == "bad_key" and not self.pem then text = text .. ": no field is of the type pem, of which `policy try` has a key of its own" end
    so_far.error = { message = readable(text), code = code }
    say(self, ctx, so_far, log)
    if not ctx.json then report.fail(text) end
    ctx.note("sallyport: " .. text)
    return 1
  end
  say(self, ctx, result, log)
  return 0
end

return M
