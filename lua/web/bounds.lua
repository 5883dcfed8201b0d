--- What whoever holds the page, or a token of the API, must not do: lead a secret that they do not know to a place of theirs.
local records = require "records"
local M = {}

-- Where a credential's secret goes, or who may read it: a change of these asks for the secret again. Options of `credential set`; fields of every
-- type, with mint, by which an agent gets another key of the account, and scrub, which looks for it in answers; a type's own fields that are addresses,
-- or say where in a request it stands: in a text that the API shows to others, it is public.
local options = { host = true, port = true, ["plain-http"] = true, ["seal-host"] = true, address = true, preset = true, substitute = true }
local fields = { ca = true, tls = true, client_cert = true, mint = true, scrub = true }
local places = { body_parameter = { name = true, ["in"] = true } }

local function is_way(pol, name)
  local f = pol and pol.by_name[name]
  return f ~= nil and (f.type == "url" or f.header == true or (places[pol.name] or {})[name] == true)
end

--- Whether this `credential set`, its words one by one, says where the secret goes, or takes away what said so. record: as it is now
function M.leads(args, pol, record)
  local now = record.fields or {}
  for i = 4, #args do
    local option, value = args[i]:match("^%-%-([%w-]+)=?(.*)$")
    local field, given = args[i]:match("^([%a_][%w_]*)[^=]*=(.*)$")
    if option == "clear" then
      if options[value] or fields[value] or is_way(pol, value:match("^[^.]*")) then return true end
    elseif option then
      if options[option] then return true end
    elseif field and (fields[field] or is_way(pol, field) and now[field] ~= given) then
      return true
    end
  end
  return false
end

--- What was not typed again, where a change leads a secret elsewhere: why it cannot be | nil. typed: secrets by label
function M.unled(record, typed)
  for _, name in ipairs(require("cli.shape").secrets(record)) do
    -- A document's members come with the document; of a map each is typed.
    if not typed[name] and not typed[name:match("^[^.]+")] then
      return ("its secret %s is asked for again where a change says where it goes, or who may read it; the command line changes it without"):format(name)
    end
  end
  if require("store").peek("state", record.name) then
    return "it holds tokens that were made with its secret: the command line changes where they go, or who may read them"
  end
end

-- The variables that stand in what says where this credential's secret goes.
local function varied(record)
  local variables, pol, names = require "variables", require("policy_store").load(record.type), {}
  variables.note(record.hosts, names)
  variables.note(record.seal_hosts, names)
  for name, value in pairs(record.fields or {}) do
    if is_way(pol, name) then variables.note(value, names) end
  end
  return names
end

--- Where variables that are set lead the secret of this credential, in words, for who typed it: they may have been set by somebody else, and before. At
-- most `most`: { "${SITE} is acme, for the agent bob" … }, how many more there are.
function M.leads_now(record, most)
  local db, out, more, names, sorted = require "cli.db", {}, 0, varied(record), {}
  for name in pairs(names) do sorted[#sorted + 1] = name end
  table.sort(sorted)
  local function note(variable, value, whose)
    if not value then return end
    if #out >= most then more = more + 1 else out[#out + 1] = ("${%s} is %s, for %s"):format(variable, value, whose) end
  end
  for _, variable in ipairs(sorted) do
    for _, b in ipairs(record.bundles or {}) do
      local bundle = require("store").peek("bundle", b)
      note(variable, bundle and (bundle.variables or {})[variable], "agents with " .. b)
      for _, a in db.each("agent", "a/") do
        local has = false
        for _, own in ipairs(a and not a.revoked and a.bundles or {}) do has = has or own == b end
        if has then note(variable, (a.variables or {})[variable], "the agent " .. a.name) end
      end
    end
  end
  return out, more
end

-- The places to which variables lead secrets that are kept: { ["CREDENTIAL\0VARIABLE=value"] = { credential, variable } }, for each bundle that holds it and
-- each agent with the bundle. over: { [database] = { [key] = record } }, in place of what is in the store; nil: no credential has such a variable.
local function led(over)
  local db, out, ways, found = require "cli.db", {}, {}, false
  for name, r in db.each("credential", "") do
    if r then
      ways[name] = varied(r)
      found = found or next(ways[name]) ~= nil
    end
  end
  if not found then return nil end
  local function all(of, prefix)
    local list = {}
    for key, r in db.each(of, prefix) do list[key] = r or nil end
    for key, r in pairs(over[of] or {}) do list[key] = r end
    return list
  end
  local agents, bundles, held = all("agent", "a/"), all("bundle", ""), all("credential", "")
  local function note(name, variable, value)
    if value then out[("%s\0%s=%s"):format(name, variable, value)] = { name, variable } end
  end
  for name, names in pairs(ways) do
    for variable in pairs(names) do
      for _, b in ipairs(held[name] and held[name].bundles or {}) do
        note(name, variable, ((bundles[b] or {}).variables or {})[variable])
        for _, a in pairs(agents) do
          for _, has in ipairs(a.bundles or {}) do
            if has == b then note(name, variable, (a.variables or {})[variable]) end
          end
        end
      end
    end
  end
  return out
end

--- What a commit of the page or the API would do to a secret that nobody typed: lead it to a host, or an address, that a variable names, by the variable's
-- value or by the bundle that has one. Why it cannot be | nil
function M.strays(ops)
  local over = {}
  for _, op in ipairs(ops) do
    if op.op == "put" and (op.db == "agent" or op.db == "bundle" or op.db == "credential") then
      over[op.db] = over[op.db] or {}
      over[op.db][op.key] = op.plain
    end
  end
  if not next(over) then return nil end
  local before = led {}
  for key, at in pairs(before and led(over) or {}) do
    if not before[key] then
      return ("${%s} says where the secret of %s goes, and it would go elsewhere: that is changed on the command line"):format(at[2], at[1])
    end
  end
end

--- Whether the page may change this policy, or put this text or kept version in its place: rules alone see no secret. Types, presets and what
-- matches say where secrets go. new: it may be one of a name that nothing has yet.
function M.is_rule(name, text, new)
  local policies = require "policy_store"
  local pol = policies.load(name)
  local free = new and text and not pol and require("policy").name_ok(name) and (policies.head(name) or {}).version == 0 and not require("sandbox").default_source(name)
  if not free and (not pol or pol.kind ~= "rule") then return false end
  local new = text and require("policy").compile(name, text)
  return not new or new.kind == "rule"       -- what is no policy at all is refused by the command
end

--- Whether programs of the operator's run for a credential of this type: what they print would go to a host of the page's.
function M.runs(pol) return pol.programs == true end

return M
