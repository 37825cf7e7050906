# Completion of ksauto for bash. What can be completed is asked of the command itself, so it is never behind.
_ksauto()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=() words=() i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD && ${#command[@]} < 2; i++)); do
        case ${COMP_WORDS[i]} in
        --db) ((i++)) ;;
        -*) ;;
        *)
            command+=("${COMP_WORDS[i]}")
            [ "${command[0]}" = db ] || break
            ;;
        esac
    done
    local name metavar values
    while IFS= read -r line; do
        # Tabs in a row would be one separator to read.
        IFS=$'\x1f' read -r name metavar values _ <<<"${line//$'\t'/$'\x1f'}"
        if [ "$name" = "$previous" ] && [ -n "$metavar" ]; then
            case $metavar in
            FILE | OUT | DIR | P* | *.npy) mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
            DEVICE) mapfile -t COMPREPLY < <(compgen -W "cpu cuda:0" -- "$current") ;;
            *) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current") ;;
            esac
            return
        fi
        # Options where one was begun, else the words that may stand here.
        case $current,$name in
        -*,-* | [!-]*,[!-]* | ,[!-]*) words+=("$name") ;;
        esac
    done < <("${COMP_WORDS[0]}" "${command[@]}" --help=options 2>/dev/null)
    mapfile -t COMPREPLY < <(compgen -W "${words[*]}" -- "$current")
    # Arguments that are files, such as db import's.
    [ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$current")
}
complete -o filenames -F _ksauto ksauto
