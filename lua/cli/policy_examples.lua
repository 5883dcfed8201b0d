--- A policy's examples: what they are made of, and what each must come to. `policy put`, `edit` and `test` run them.
local policy = require "policy"
local presets = require "presets"
local sandbox = require "sandbox"
local M = {}

local EXAMPLES_CPU = 10         -- seconds of processor time for all of them

local request_keys = { method = "string", url = "string", headers = "table", body = "string" }
local want_keys = {
  headers = "table", query = "table", url = "string", path = "string", body = "string", error = "string boolean",
}
local match_want_keys = { id = "string integer", code = "string" }

-- A secret field's plain example becomes a handle, as in life; so does each text of the state.
local function example_values(pol, given)
  local core, values, state = require "secret.core", {}, nil
  local secret = { of = function(text) return core.as_field(core.of(text)) end }
  for name, v in pairs(given or {}) do
    local f = pol.by_name[name]
    if name == "state" and type(v) == "table" then
      state = {}
      for k, item in pairs(v) do state[k] = type(item) == "string" and secret.of(item) or item end
    elseif not f then
      return nil, ("cred.%s is no field"):format(tostring(name))
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
    local ok, why = policy.value(pol.by_name[name], v)
    if not ok then return nil, ("cred.%s %s"):format(name, why) end
  end
  return values, nil, state
end

local function quoted(v) return v == nil and "absent" or v == false and "absent" or ("%q"):format(v) end

-- nil where both say the same; else what differs, with both values.
local function differs(what, got, want)
  if want == false then want = nil end
  if got == want then return nil end
  return ("%s is %s, the example wants %s"):format(what, quoted(got), quoted(want))
end

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

local function example_request(ex)
  local r = ex.req or {}
  return require("request").example {
    method = r.method or "GET", url = r.url or "https://api.example.com/", headers = r.headers or {}, body = r.body,
  }
end

-- nil where the example comes out as it says; else what differs.
local function type_example(pol, ex, check, i)
  if ex.req and not check:keys(ex.req, request_keys, ("req of example %d"):format(i)) then return check.why end
  if not check:keys(ex.want, want_keys, ("want of example %d"):format(i)) then return check.why end
  local values, why, state = example_values(pol, ex.cred)
  if not values then return why end
  local cred = policy.view(pol, values, state)
  local req = example_request(ex)
  local spec, code, message = policy.strip(pol, cred)
  if spec then
    local carriers = require "carriers"
    local _, headers = carriers.names { spec.headers or {}, pol.carriers.headers or {}, carriers.headers }
    local is_form = spec.form and require("body").of(req:view().headers).form
    req:strip { headers = headers, query = carriers.names { spec.query or {}, pol.carriers.query or {} }, form = is_form and spec.form or nil }
    local ok
    ok, code, message = policy.apply(pol, req, cred)
    if ok then code = nil end
  end
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
  if not check:keys(ex.want, match_want_keys, ("want of example %d"):format(i)) then return check.why end
  local http, asked = require "http", ex.question or {}
  local present = {}
  for _, id in ipairs(asked.presents or {}) do present[id] = true end
  local question = {
    method = asked.method, tls = asked.tls, port = asked.port,
    readings = function(known) return require("paths").readings(http.path_readings, asked.path or "/", known) end,
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

local example_runs = {
  type = run_type_example, match = run_match_example,
  presets = presets.run_example,
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
      return nil, ("%s:%d: example %d: %s"):format(policy.file_of(pol.name), policy.line_of_examples(pol, i), i,
        tostring(why):gsub("^policies/[%w_]+%.lua:%d+: ", ""))
    end
  end
  return true, #pol.examples
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
  return pol, count
end

return M
