# SPDX-License-Identifier: MIT
# fish completion for the Provium tools. Verbs and flags come from the command's own --dump-cli, so
# nothing here has to change with them.

# Prints the command line of $argv[1] as lines "V verb help", "F names takes_value help" and
# "P positional", separated by tabs; kept until the program changes.
function __provium_table
    set -l program (command -s $argv[1]); or return
    set -l key (string replace -ra '[^A-Za-z0-9]' _ -- $argv[1])
    set -l stamp_name __provium_stamp_$key
    set -l table_name __provium_table_$key
    set -l stamp (stat -Lc '%n %Y' -- $program); or return
    if test "$$stamp_name" != "$stamp"
        set -g $table_name ($program --dump-cli 2>/dev/null </dev/null |
            sed -E 's/\{"(name|names|positional)":/\n&/g' | sed -nE '
              s/^\{"name":"([^"]*)","help":"(([^"\\\\]|\\\\.)*)".*/V\t\1\t\2/p
              s/^\{"positional":"([^"]*)".*/P\t\1/p
              s/^\{"names":\["([^]]*)"\],"takes_value":(true|false),/F\t\1\t\2\t/
              /^F/{ s/","/ /g; s/[^\t]*"help":"(([^"\\\\]|\\\\.)*)".*/\1/; p }')
        set -g $stamp_name $stamp
    end
    printf '%s\n' $$table_name
end

# Prints what may stand for flag or positional $argv[1]; $argv[2] is the folder of the commands.
function __provium_values
    switch $argv[1]
        case --json
            printf '%s\n' compact pretty
        case --layer
            "$argv[2]pv-disk" layers -o name 2>/dev/null </dev/null
        case --format --format-a --format-b
            printf '%s\n' raw qcow2 vmdk vhdx vpc vdi luks qed parallels dmg
        case --op
            printf '%s\n' read write flush discard zero map cache
        case --errno
            printf '%s\n' EIO ENOSPC EPERM EROFS EINVAL ENOMEM ETIMEDOUT ENODEV EBUSY
        case --survivors
            printf '%s\n' none all random listed
        case --accel
            printf '%s\n' auto kvm tcg
        case --transport
            printf '%s\n' nbd vhost-user auto
        case --profile
            "$argv[2]pv-vm" profiles -o name 2>/dev/null </dev/null
        case action
            printf '%s\n' build info clean
        case operation
            printf '%s\n' run close list
        case scope_name
            "$argv[2]pv-vm" scope list -o name 2>/dev/null </dev/null
        case --clock
            printf '%s\n' keep host
        case --order
            printf '%s\n' sequential random
        case snap
            "$argv[2]pv-snap" list -o name 2>/dev/null </dev/null
        case words
            "$argv[2]pv-snap" list -o name 2>/dev/null </dev/null
            "$argv[2]pv-vm" list -o name 2>/dev/null </dev/null
        case --disk disk
            "$argv[2]pv-disk" list -o id 2>/dev/null </dev/null
        case vm name names
            "$argv[2]pv-vm" list -o name 2>/dev/null </dev/null
        case --mode mode
            "$argv[2]pv-fault" kinds -o name 2>/dev/null </dev/null
        case --image --template --key-file --from --in --kernel --file --config path a b
            __fish_complete_path (commandline -ct)
    end
end

# Prints the candidates for the word under the cursor.
function __provium_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l command $words[1]
    set -l noun (string replace -r '.*/' '' -- $command)
    set -l folder (string replace -r '[^/]*$' '' -- $command)
    set -l verb
    for word in $words[2..-1]
        test "$word" = --; and return
        if test -z "$verb"; and not string match -q -- '-*' $word
            set verb $word
        end
    end
    set -l here $noun
    test -n "$verb"; and set here $verb
    set -l scope
    set -l wanted
    set -l verbs
    set -l flags
    for row in (__provium_table $command)
        set -l field (string split \t -- $row)
        if test $field[1] = V
            set scope $field[2]
            if test -z "$verb"; and not string match -q -- 'pv-*' $scope
                set -a verbs $field[2]\t(string replace -a '\\' '' -- $field[3])
            end
        else if test "$scope" = "$here"
            if test $field[1] = P
                set -a wanted $field[2]
                continue
            end
            set -l names (string split ' ' -- $field[2])
            if test "$field[3]" = true; and contains -- $words[-1] $names
                __provium_values $names[-1] $folder
                return
            end
            set -a flags $names\t(string replace -a '\\' '' -- $field[4])
        end
    end
    if string match -q -- '-*' $current
        printf '%s\n' $flags
    else if test -n "$verbs"
        printf '%s\n' $verbs
    else
        for name in $wanted
            __provium_values $name $folder
        end
    end
end

for command in pv-vm pv-disk pv-fault pv-snap pv-verify
    complete -c $command -f -a '(__provium_complete)'
    complete -c $command -n 'string match -q -- "--json=*" (commandline -ct)' \
        -l json -x -a 'compact pretty'
end
