-- lua/variables.lua: what is a variable, what is none, and what may stand in a host.
local variables, records = require "variables", require "records"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

local values = { TENANT = "acme", A_1 = "x.y", DOLLAR = "${TENANT}", LABEL = "Eu-1", UNDER = "a_b" }
local function get(name) return values[name] end
local function fill(text) return variables.fill(text, get) end
local function host(rule) return variables.host(rule, get) end

return {
  ["a variable is filled in wherever it stands"] = function()
    is(fill "https://${TENANT}.test/${A_1}", "https://acme.test/x.y")
    is(fill "${TENANT}${TENANT}", "acmeacme")
    is(fill "", "")
  end,
  ["lists and maps by their values"] = function()
    is(fill({ "a", "${TENANT}" })[2], "acme")
    is(fill({ k = "-${TENANT}" }).k, "-acme")
    is(fill(nil), nil)
  end,
  ["what is no variable's name stays, dollars too"] = function()
    for _, text in ipairs { "${method}", "$TENANT", "${}", "${TENANT", "${Tenant}", "${1A}", "$$", "a$$b", "${ TENANT}", "%{TENANT}", "%1" } do
      is(fill(text), text)
    end
  end,
  ["two dollars stand for the text itself"] = function()
    is(fill "$${TENANT}", "${TENANT}")
    is(fill "$$${TENANT}", "$${TENANT}")
    is(variables.escapes { a = "$${TENANT}" }, true)
    is(variables.escapes "$$ ${TENANT}", false)
  end,
  ["a value is never looked into again, and a percent sign is one"] = function()
    is(fill "${DOLLAR}", "${TENANT}")
    is(variables.fill("${P}", function() return "%1%0" end), "%1%0")
  end,
  ["one that is not set is named"] = function()
    local text, name = fill "${TENANT}/${NONE}"
    is(text, nil)
    is(name, "NONE")
  end,
  ["names and values are checked; an empty value takes away"] = function()
    local set = assert(variables.assign(nil, "TENANT=a=b"))
    is(set.TENANT, "a=b")
    is(next(assert(variables.assign(set, "TENANT="))), nil)
    is(set.TENANT, "a=b")
    for _, bad in ipairs { "TENANT", "tenant=x", "=x", "1A=x", "A-B=x", "A=\n", "A=\127", "A=\xff", ("A"):rep(65) .. "=x", "A=" .. ("x"):rep(1025) } do
      is((variables.assign(nil, bad)), nil)
    end
    local many = {}
    for i = 1, 64 do many["V" .. i] = "x" end
    is((variables.assign(many, "W=x")), nil)
    assert(variables.assign(many, "V1=y"))
  end,
  ["in a host a variable is one whole label"] = function()
    is(host "${TENANT}.test", "acme.test")
    is(host "api.${LABEL}.test", "api.eu-1.test")
    is(host "api.${TENANT}", "api.acme")
    is(host "api.test", "api.test")
    for _, rule in ipairs { "x${TENANT}.test", "${TENANT}x.test", "${TENANT}.${LABEL}.test", "*.${TENANT}.test", "$${TENANT}.test", "${tenant}.test", "$.test" } do
      is(host(rule), nil)
    end
  end,
  ["its value is one label, whatever it says"] = function()
    is(host "${A_1}.test", nil)
    for _, value in ipairs { "", ".", "a.", "*", "a/b", "a:1", "a@b", "-a", "a-", "a b", ("a"):rep(64), "\u{e9}", "a%2e" } do
      is(variables.host("${V}.test", function() return value end), nil)
    end
    is(variables.host("${V}.test", function() return ("A"):rep(63) end), ("a"):rep(63) .. ".test")
    local none, name, value = variables.host("${NONE}.test", get)
    is(none, nil) is(name, "NONE") is(value, nil)
    none, name, value = host "${A_1}.test"
    is(none, nil) is(name, "A_1") is(value, "x.y")
  end,
  ["host rules are kept as they are written, but for the case of letters"] = function()
    is(records.host "${TENANT}.Example.TEST", "${TENANT}.example.test")
    is(records.host "api.${REGION}.test", "api.${REGION}.test")
    for _, bad in ipairs { "${TENANT}", "${tenant}.test", "a${TENANT}.test", "*.${TENANT}.test", "${A}.${B}.test", "${A}..test", "${A}.te st",
      "$x.test", "${A}.test:443", "${A}.0.0.1", "https://${A}.test/" } do
      local ok = records.host(bad)
      if ok then error(bad .. " was taken as " .. ok) end
    end
    is((records.host("${TENANT}.test", true)), nil)
  end,
}
